/**
 * The weighted sum of encoded tensors: sum p_i x_i with p_i = c_i / C, which by linearity is the
 * projected gradient of the pooled batch. In f64 and in the order given, so that the result does not
 * depend on who was first. Other rules (rules.ts) go through the same loop. Plain arrays; no tensors.
 */
import type { TensorCodec } from '../codec/codec.ts';
import { chunk, CHUNK, groupsOf, kernels } from '../codec/kernels.ts';
import type { TensorWriter } from '../codec/tensor-codec.ts';
import type { OpenedPart, SlotRule } from './rule.ts';

/** One trainer's tensor. The caller gives them in ascending trainer id. */
export interface EncodedPart {
  readonly bytes: Uint8Array;
  readonly codec: TensorCodec;
  readonly weight: number;
  /** For other rules than the mean, as in `OpenedPart`; left out: the weight, and 1. */
  readonly share?: number;
  readonly scale?: number;
}

/** The sum rounded to f32, and its squared norm before rounding. */
export interface EncodedSum {
  readonly sum: Float32Array;
  readonly squaredNorm: number;
}

/** Each trainer counts by its tokens: one that sends garbage counts for its part, however large its numbers are. */
export const meanRule: SlotRule = {
  open: (parts) => (start) => {
    chunk.sums.fill(0);
    for (const { reader, weight } of parts) reader.accumulate(start, weight);
  },
};

/** Opens the parts. @throws ProtocolError for one of a wrong length or with impossible scales */
export function openParts(parts: readonly EncodedPart[], count: number): readonly OpenedPart[] {
  return parts.map(({ bytes, codec, weight, share = weight, scale = 1 }) => {
    if (!Number.isFinite(weight)) throw new RangeError(`a weight of the sum is ${weight}`);
    return { reader: codec.open(bytes, count), weight, share, scale };
  });
}

/**
 * Sums `parts` of `count` numbers each, or what `rule` makes of them; without parts the sum is zero.
 * @throws ProtocolError for a part with a wrong length or numbers that are not finite.
 */
export function sumEncoded(
  parts: readonly EncodedPart[],
  count: number,
  rule: SlotRule = meanRule,
): EncodedSum {
  const sum = new Float32Array(count);
  const visit = (start: number, length: number): void => {
    sum.set(chunk.values.subarray(0, length), start);
  };
  const squaredNorm = forChunks(parts, count, visit, count, rule);
  return { sum, squaredNorm };
}

/**
 * Sums `parts` and encodes `factor` times the sum in one pass through the cache.
 * @param normed how many of its first numbers the norm is of
 * @returns the squared norm of the sum, before it is rounded and scaled
 * @throws ProtocolError as `sumEncoded`; NotFiniteError if the sum of finite numbers is not finite.
 */
export function encodeSum(
  parts: readonly EncodedPart[],
  count: number,
  writer: TensorWriter,
  factor: number = 1,
  normed: number = count,
  rule: SlotRule = meanRule,
): number {
  const { values } = chunk;
  const visit = (start: number, length: number): void => {
    if (factor !== 1) for (let i = 0; i < length; i++) values[i] = values[i]! * factor;
    writer.write(start, length);
  };
  return forChunks(parts, count, visit, normed, rule);
}

/** The squared norm of the sum of `parts`. @throws ProtocolError as `sumEncoded` */
export function squaredNormOfSum(
  parts: readonly EncodedPart[],
  count: number,
  rule: SlotRule = meanRule,
): number {
  return forChunks(parts, count, () => {}, count, rule);
}

/** Calls `visit` with the sum of each chunk, as f32 in `chunk.values`; returns the squared norm of the first `normed` numbers. */
function forChunks(
  parts: readonly EncodedPart[],
  count: number,
  visit: (start: number, length: number) => void,
  normed: number,
  rule: SlotRule,
): number {
  const sumChunk = (parts.length === 0 ? meanRule : rule).open(openParts(parts, count), count);
  let squaredNorm = 0;
  for (let start = 0; start < count; start += CHUNK) {
    const length = Math.min(CHUNK, count - start);
    sumChunk(start, length);
    const square = kernels.round(groupsOf(length));
    if (start + length <= normed) squaredNorm += square;
    else squaredNorm += squaredNormOf(chunk.values.subarray(0, Math.max(0, normed - start)));
    if (!Number.isFinite(square)) for (const { bytes, codec } of parts) codec.check(bytes, count);
    visit(start, length);
  }
  return squaredNorm;
}

function squaredNormOf(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value * value, 0);
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
