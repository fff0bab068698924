/** Starts `galore` again as a child with an IPC channel: when this process is gone, it notices and leaves. SHELL. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ChildProcessEvents, ChildProcessHandle, LaunchProcess } from './local-trainers.ts';

const COMMAND = fileURLToPath(new URL('../../../bin/galore.js', import.meta.url));

/**
 * glibc gives threads memory arenas of their own, at moments of its choosing: 20 to 60 MB each that a
 * trainer needs no more than the first two. Other systems ignore it.
 */
const MALLOC_ARENA_MAX = '2';

/** The real LaunchProcess. */
export const launchProcess: LaunchProcess = (args, events, environment) =>
  launch([], args, events, environment);

/** A LaunchProcess that starts `galore` through another command, such as `ip netns exec NAME`. */
export function launcherBy(command: readonly string[]): LaunchProcess {
  return (args, events, environment) => launch(command, args, events, environment);
}

function launch(
  before: readonly string[],
  args: readonly string[],
  events: ChildProcessEvents,
  environment: Readonly<Record<string, string>> = {},
): ChildProcessHandle {
  const [file, ...rest] = [...before, process.execPath, COMMAND, ...args];
  const child = spawn(file!, rest, {
    detached: true,
    env: { MALLOC_ARENA_MAX, ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  let hasEnded = false;
  const end = (code: number | null, how: string): void => {
    if (hasEnded) return;
    hasEnded = true;
    events.onExit(code, how);
  };
  for (const stream of [child.stdout, child.stderr]) {
    if (stream) createInterface({ input: stream, crlfDelay: Infinity }).on('line', events.onLine);
  }
  child.on('error', (error) => end(null, `could not be started: ${error.message}`));
  // `close` comes after `exit` and after the last line was read.
  child.on('close', (code, signal) => end(code, code === null ? `signal ${signal}` : `exit code ${code}`));
  return { kill: (signal) => void child.kill(signal) };
}
