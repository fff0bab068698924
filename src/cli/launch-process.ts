/** Starts `galore` again as a child with an IPC channel: when this process is gone, it notices and leaves. SHELL. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { LaunchProcess } from './local-trainers.ts';

const COMMAND = fileURLToPath(new URL('../../../bin/galore.js', import.meta.url));

/** The real LaunchProcess. */
export const launchProcess: LaunchProcess = (args, events) => {
  const child = spawn(process.execPath, [COMMAND, ...args], {
    detached: true,
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
};
