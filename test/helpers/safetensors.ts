/** A minimal reader of safetensors files for tests: float32 tensors only, no checks. */
import { readFileSync } from 'node:fs';

export interface ReadTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export function readSafetensors(path: string): Map<string, ReadTensor> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
    string,
    { shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, ReadTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const bytes = Uint8Array.from(
      file.subarray(start + entry.data_offsets[0], start + entry.data_offsets[1]),
    );
    tensors.set(name, { name, shape: entry.shape, values: new Float32Array(bytes.buffer) });
  }
  return tensors;
}
