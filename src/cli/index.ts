/** The entry point of the command: makes the real context, runs, ends the process. SHELL. */
import { hostname, availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { readEnvironment } from '../config/environment.ts';
import type { CliContext } from './context.ts';
import { registerEngineCommand } from './engine.ts';
import { registerInspectCommand } from './inspect.ts';
import { launchProcess } from './launch-process.ts';
import { runCli } from './program.ts';
import { services } from './services.ts';
import { shownPath } from './words.ts';

const context: CliContext = {
  stdout: process.stdout,
  stderr: process.stderr,
  environment: readEnvironment(),
  signals: process,
  services,
  workingDir: process.cwd(),
  hostName: hostname(),
  processId: process.pid,
  cores: availableParallelism(),
  commandName: commandName(process.argv[1] ?? 'galore'),
  launchProcess,
  onParentGone: process.channel ? onParentGone : null,
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
  exitNow: (code) => process.exit(code),
};

function onParentGone(callback: () => void): void {
  process.once('disconnect', callback);
  // The channel is only there to be cut: it must not keep a finished trainer alive.
  process.channel?.unref();
}

/** As it was called: by the name in PATH, or as a script of a checkout. */
function commandName(script: string): string {
  return basename(script) === 'galore' ? 'galore' : `node ${shownPath(process.cwd(), script)}`;
}

// Writing to a closed pipe (`galore … | head`) is no reason for a stack: nobody reads any more.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
}

const code = await runCli(process.argv.slice(2), context, [registerEngineCommand, registerInspectCommand]);
process.exit(process.exitCode ?? code);
