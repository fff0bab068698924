/** A run over a tiny model, and what its trainers would send. */
import { buildRunShape, type RunShape } from '../../src/run-shape.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import type { ExpectedTensor, TensorHeader } from '../../src/protocol/parts.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import type { PartMessage } from '../../src/protocol/messages.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import { derive, randomUniform } from '../../src/random.ts';
import { resolve, MINIMAL } from '../config/parse.ts';
import { tinyConfig } from '../helpers/tiny-llama.ts';

export interface TinyRun {
  readonly config: RunConfig;
  readonly shape: RunShape;
  /** Indices of the projected slots. */
  readonly projected: readonly number[];
}

export function tinyRun(...settings: readonly string[]): TinyRun {
  const config = resolve(MINIMAL, 'method.rank=4', 'wire.codec=f32', 'seq_len=8', ...settings);
  const shape = buildRunShape(config, tinyConfig());
  const projected = shape.slots.filter(({ policy }) => policy === 'one-sided').map(({ index }) => index);
  return { config, shape, projected };
}

/** Finite f32 numbers that depend on all labels. */
export function bytesFor(
  expected: ExpectedTensor | null | undefined,
  ...labels: (string | number)[]
): Uint8Array {
  const key = derive(7, ...labels);
  const values = Float32Array.from(
    { length: (expected?.totalBytes ?? 0) / 4 },
    (_, i) => randomUniform(key, i) - 0.5,
  );
  return codecFor('f32').encode(values, key);
}

/** The Parts of a tensor, in pieces of `pieceBytes`. */
export function partsOf(
  header: Omit<TensorHeader, 'codec'>,
  bytes: Uint8Array,
  pieceBytes = Infinity,
): PartMessage[] {
  return [...splitIntoParts({ codec: 'f32', ...header }, bytes)].flatMap((part) => {
    if (part.payload.length <= pieceBytes) return [part];
    const pieces: PartMessage[] = [];
    for (let from = 0; from < part.payload.length; from += pieceBytes) {
      pieces.push({
        ...part,
        offset: part.offset + from,
        payload: part.payload.slice(from, from + pieceBytes),
      });
    }
    return pieces;
  });
}

/** Every tensor of a trainer's contribution to `step`. */
export function contributionOf({ shape }: TinyRun, step: number, trainerId: string): PartMessage[] {
  return shape.sizes.flatMap((sizes, tensor) => {
    const bytes = bytesFor(payloadSize(sizes, 'contribution', step), trainerId, step, tensor);
    return partsOf({ stream: 'contribution', step, round: 0, tensor }, bytes);
  });
}
