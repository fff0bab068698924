/**
 * The weighted sum of encoded tensors: sum p_i x_i with p_i = c_i / C, which by linearity is the
 * projected gradient of the pooled batch. In f64 and in the order given, so that the result does not
 * depend on who was first. Plain arrays; no tensors.
 */
import type { TensorCodec } from '../codec/codec.ts';

/** One trainer's share. The caller gives them in ascending trainer id. */
export interface EncodedPart {
  readonly bytes: Uint8Array;
  readonly codec: TensorCodec;
  readonly weight: number;
}

/** The sum rounded to f32, and its squared norm before rounding. */
export interface EncodedSum {
  readonly sum: Float32Array;
  readonly squaredNorm: number;
}

/** Numbers summed at a time: their f64 sums stay in the cache and no long f64 array exists. */
const BLOCK_COUNT = 8192;

/**
 * Sums `parts` of `count` numbers each into `out`; without parts the sum is zero.
 * @throws ProtocolError for a part with a wrong length or numbers that are not finite.
 */
export function sumEncoded(
  parts: readonly EncodedPart[],
  count: number,
  out: Float32Array = new Float32Array(count),
): EncodedSum {
  for (const { weight } of parts) {
    if (!Number.isFinite(weight)) throw new RangeError(`a weight of the sum is ${weight}`);
  }
  const readers = parts.map(({ bytes, codec }) => codec.open(bytes, count));
  const sums = new Float64Array(Math.min(BLOCK_COUNT, count));
  let squaredNorm = 0;
  for (let start = 0; start < count; start += BLOCK_COUNT) {
    const end = Math.min(count, start + BLOCK_COUNT);
    sums.fill(0);
    readers.forEach((reader, i) => reader.accumulate(start, end, parts[i]!.weight, sums));
    for (let i = start; i < end; i++) {
      const value = sums[i - start]!;
      out[i] = value;
      squaredNorm += value * value;
    }
  }
  if (!Number.isFinite(squaredNorm)) for (const { bytes, codec } of parts) codec.check(bytes, count);
  return { sum: out, squaredNorm };
}

/**
 * What to multiply a gradient of this norm by so that it does not exceed `maxNorm`; 1 when it does not.
 * As torch.nn.utils.clip_grad_norm_, 1e-6 included, but with the norm of the summed contribution, not
 * of full gradients, which nobody has.
 */
export function clipFactor(norm: number, maxNorm: number): number {
  if (!Number.isFinite(norm)) throw new RangeError(`a gradient norm is ${norm}`);
  return Math.min(1, maxNorm / (norm + 1e-6));
}
