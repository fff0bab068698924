/** A small checkpoint for tests. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beginCheckpoint } from '../../../src/coordinator/store/checkpoint.ts';
import type {
  CheckpointInfo,
  OpenCheckpoint,
  RunFacts,
  StateTensor,
} from '../../../src/coordinator/store/checkpoint.ts';

/** In an order that is not the one on disk. */
export const TENSORS: readonly StateTensor[] = [
  { name: 'm/model.w', shape: [2, 2] },
  { name: 'weights/model.w', shape: [2, 3] },
  { name: 'weights/lm_head', shape: [2] },
  { name: 'basis/model.w', shape: [3, 2] },
  { name: 'v/model.w', shape: [2, 2] },
];

/** Bytes of tensor number `index` at `step`: values that depend on both. */
export function tensorBytes(step: number, index: number): Uint8Array {
  const size = (TENSORS[index] as StateTensor).shape.reduce((product, extent) => product * extent, 1);
  return new Uint8Array(Float32Array.from({ length: size }, (_, i) => step + index / 8 + i / 64).buffer);
}

export function runFacts(step: number): RunFacts {
  return {
    runId: 'run-1',
    name: 'demo',
    step,
    sequence: 2 * step,
    digest: 'ab'.repeat(32),
    refreshedStep: step === 0 ? 0 : 1,
    cursor: { next: 4 * step, returned: [1] },
    seed: 7,
    schedulePosition: step,
    members: ['a', 'b'],
    created: '2026-01-02T03:04:05.000Z',
  };
}

/** Writes the checkpoint of `step`, in two pieces a tensor, with more files by name. */
export async function writeCheckpoint(
  dir: string,
  step: number,
  more: Readonly<Record<string, Uint8Array>> = {},
): Promise<CheckpointInfo> {
  const texts = { configJson: '{"model_type":"llama"}', tokenizerJson: '{"version":"1.0"}' };
  const writer = await beginCheckpoint(dir, step, TENSORS, texts, async (folder) => {
    for (const [name, bytes] of Object.entries(more)) await writeFile(join(folder, name), bytes);
    return Object.keys(more);
  });
  try {
    for (const index of TENSORS.keys()) {
      const bytes = tensorBytes(step, index);
      await writer.write(index, 4, bytes.subarray(4));
      await writer.write(index, 0, bytes.subarray(0, 4));
    }
    return await writer.finish(runFacts(step));
  } catch (error) {
    await writer.abandon();
    throw error;
  }
}

/** All bytes of a checkpoint by tensor name. */
export async function readState(checkpoint: OpenCheckpoint): Promise<Record<string, Buffer>> {
  const state: Record<string, Buffer> = {};
  for (const [index, { name, totalBytes }] of checkpoint.tensors.entries()) {
    state[name] = Buffer.from(await checkpoint.read(index, 0, totalBytes));
  }
  return state;
}

/** What `readState` gives for the checkpoint of `step`. */
export function expectedState(step: number): Record<string, Buffer> {
  return Object.fromEntries(TENSORS.map(({ name }, index) => [name, Buffer.from(tensorBytes(step, index))]));
}
