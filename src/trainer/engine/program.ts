/** Runs a program to its end and keeps what it said for an error message. */
import { spawn } from 'node:child_process';
import { EngineError } from '../../errors.ts';

const KEPT_CHARACTERS = 20_000;

/** What the program wrote to stdout and stderr. @throws EngineError with its last words if it fails. */
export function runProgram(command: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = '';
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output = (output + text).slice(-KEPT_CHARACTERS);
      });
    }
    child.on('error', (cause) => {
      reject(new EngineError(`${command} could not be run: ${cause.message}`, { cause }));
    });
    child.on('close', (code, signal) => {
      if (code === 0) resolve(output);
      else
        reject(new EngineError(`${command} ended with ${signal ?? `exit code ${code}`}: ${output.trim()}`));
    });
  });
}
