/** What the comparisons with PyTorch share: its environment, its process, and words for what was measured. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const run = promisify(execFile);
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
export const GALORE = join(ROOT, 'bin', 'galore.js');
/** The peer: it makes two steps, says that it is ready, and then waits for its turns. */
export const TORCH = join(ROOT, 'bench', 'peers', 'torch_galore.py');

/** Resolves to a Python with torch, transformers and galore-torch, made in `folder`. */
export async function makeEnvironment(folder: string): Promise<string> {
  console.log(`making a Python environment in ${folder}`);
  await run('python3', ['-m', 'venv', folder]);
  const python = join(folder, 'bin', 'python');
  await run(python, ['-m', 'pip', 'install', '--quiet', 'torch', 'transformers', 'galore-torch'], {
    maxBuffer: 2 ** 26,
  });
  return python;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = (sorted.length - 1) / 2;
  return (sorted[Math.floor(half)]! + sorted[Math.ceil(half)]!) / 2;
}
