/**
 * `galore` in the process of the test: the same command, coordinator, trainers, sockets and files, without the
 * start of two processes, which takes longer than most runs. For tests that are about what is computed and sent,
 * and for runs that others are compared with.
 */
import { EventEmitter } from 'node:events';
import { hostname } from 'node:os';
import type { CliContext } from '../../src/cli/context.ts';
import { launchProcess } from '../../src/cli/launch-process.ts';
import type { LaunchProcess } from '../../src/cli/local-trainers.ts';
import { runCli } from '../../src/cli/program.ts';
import { services } from '../../src/cli/services.ts';
import { readEnvironment } from '../../src/config/environment.ts';

interface Ended {
  readonly code: number;
  readonly output: string;
}

/** Runs a command to its end. */
export function galoreHere(...args: readonly string[]): Promise<Ended> {
  return runHere(new EventEmitter(), args, {});
}

async function runHere(
  signals: EventEmitter,
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<Ended> {
  let output = '';
  const stream = { isTTY: false, columns: undefined, write: (text: string) => Boolean((output += text)) };
  const context: CliContext = {
    stdout: stream,
    stderr: stream,
    environment: readEnvironment({ ...process.env, ...environment }),
    signals,
    services,
    workingDir: process.cwd(),
    hostName: hostname(),
    processId: process.pid,
    cores: 1,
    commandName: 'galore',
    launchProcess: launchHere,
    onParentGone: null,
    after: () => () => {}, // a trainer that crashes or does not leave is a failure here
    exitNow: (code) => {
      throw new Error(`the command wanted to end the process with code ${code}`);
    },
  };
  return { code: await runCli(args, context), output };
}

/** The first trainer beside its coordinator, the others as processes: a process has one engine. */
const launchHere: LaunchProcess = (args, events, environment = {}) => {
  if (!args.includes('trainer-1')) return launchProcess(args, events, environment);
  const { onLine, onExit } = events;
  const signals = new EventEmitter();
  void runHere(signals, args, environment).then(({ code, output }) => {
    output.split('\n').filter(Boolean).forEach(onLine);
    onExit(code, `exit code ${code}`);
  });
  return { kill: (signal) => void signals.emit(signal) };
};
