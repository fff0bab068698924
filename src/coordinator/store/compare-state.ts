/** Compares a state with the one a checkpoint holds, byte by byte. */
import { CheckpointError } from '../../errors.ts';
import type { StateBytes } from '../../galore/state-table.ts';
import { openCheckpoint, type OpenCheckpoint } from './checkpoint.ts';

/** What came of a comparison. */
export interface StateComparison {
  /** The hash the checkpoint states of its weights; null: it is damaged. */
  readonly statedSha256: string | null;
  /** What differs, or is damaged, in words; null: everything is equal. */
  readonly reason: string | null;
}

/** Compares with the checkpoint of `step`, of which every file is checked first. */
export async function compareWithCheckpoint(
  checkpointsDir: string,
  step: number,
  state: Iterable<StateBytes>,
): Promise<StateComparison> {
  let checkpoint: OpenCheckpoint;
  try {
    checkpoint = await openCheckpoint(checkpointsDir, step);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return { statedSha256: null, reason: error.message };
  }
  try {
    return { statedSha256: checkpoint.manifest.weightsSha256, reason: await differenceOf(checkpoint, state) };
  } finally {
    await checkpoint.close();
  }
}

async function differenceOf(checkpoint: OpenCheckpoint, state: Iterable<StateBytes>): Promise<string | null> {
  const indices = new Map(checkpoint.tensors.map(({ name }, index) => [name, index]));
  for (const { name, bytes } of state) {
    const index = indices.get(name);
    if (index === undefined) return `the checkpoint has no ${name}`;
    indices.delete(name);
    const { totalBytes, dtype } = checkpoint.tensors[index]!;
    if (totalBytes !== bytes.length) return `${name} has ${totalBytes} bytes, not ${bytes.length}`;
    const stored = await checkpoint.read(index, 0, totalBytes);
    if (!Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength).equals(bytes)) {
      return `${name} differs${dtype === 'f32' ? ` by up to ${greatestDifference(stored, bytes)}` : ''}`;
    }
  }
  const [more] = indices.keys();
  return more === undefined ? null : `the checkpoint has ${more}, which the state has not`;
}

/** Of two arrays of f32. */
function greatestDifference(a: Uint8Array, b: Uint8Array): string {
  const views = [a, b].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  let greatest = 0;
  for (let at = 0; at < a.length; at += 4) {
    const difference = Math.abs(views[0]!.getFloat32(at, true) - views[1]!.getFloat32(at, true));
    if (!(difference <= greatest)) greatest = difference; // NaN counts
  }
  return greatest.toPrecision(2);
}
