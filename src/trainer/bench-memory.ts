/**
 * The measurements behind `galore bench memory`, each in a process of its own: the peak of one says nothing
 * about the next. Called as a program it measures: its argument is the request as JSON, it prints one line. SHELL.
 */
import { argv, execPath } from 'node:process';
import { fileURLToPath } from 'node:url';
import { EngineError } from '../errors.ts';
import { runProgram } from './engine/program.ts';
import type { MemoryMeasurement } from './measure-memory.ts';
import type { MeasuredModel } from './measured-model.ts';

/** Measures in a new process. @throws EngineError with its last words if it fails */
export type RunMemoryBench = (request: MeasuredModel) => Promise<MemoryMeasurement>;

const PROGRAM = fileURLToPath(import.meta.url);

export const benchMemory: RunMemoryBench = async (request) => {
  const output = await runProgram(execPath, [PROGRAM, JSON.stringify(request)]);
  const line = output.split('\n').find((text) => text.startsWith('{'));
  if (line === undefined) throw new EngineError(`the measurement said nothing: ${output.trim()}`);
  return JSON.parse(line) as MemoryMeasurement;
};

if (argv[1] === PROGRAM) {
  const { measureMemory } = await import('./measure-memory.ts');
  const measurement = await measureMemory(JSON.parse(argv[2] ?? '{}') as MeasuredModel);
  process.stdout.write(`${JSON.stringify(measurement)}\n`);
}
