/**
 * A weight in one byte a number, as Q-GaLore (arXiv 2407.08296) keeps it: groups of 256 numbers, in the order
 * of the array, with a code c of 0 to 255 each, w = zero + c scale; zero is the group's least number and
 * 255 scale its range, or 1e-5 if that is more. An update is smaller than a scale, so codes of a new weight are
 * rounded at random, up with the probability of the part behind the point: then the average over steps is exact,
 * and small updates are not lost. Only + - * / and integers: the same bits everywhere. The numbers must be finite.
 */
import { randomUniform, type RandomKey } from '../random.ts';

/** Numbers that share a scale and a zero. */
export const WEIGHT_GROUP = 256;

const MAX_CODE = 255;
/** Least range of a group, so that equal numbers have a scale as well. */
const MIN_RANGE = 1e-5;

export interface WeightCodes {
  readonly codes: Uint8Array;
  /** One of each for every group. */
  readonly scales: Float32Array;
  readonly zeros: Float32Array;
}

/** Codes of `values`: the nearest, or with a key rounded at random by number i of its stream for code i. */
export function quantiseWeight(values: Float32Array, key: RandomKey | null): WeightCodes {
  const count = values.length;
  const groups = Math.ceil(count / WEIGHT_GROUP);
  const result = {
    codes: new Uint8Array(count),
    scales: new Float32Array(groups),
    zeros: new Float32Array(groups),
  };
  for (let group = 0, start = 0; group < groups; group++, start += WEIGHT_GROUP) {
    const end = Math.min(count, start + WEIGHT_GROUP);
    let least = values[start]!;
    let largest = least;
    for (let i = start + 1; i < end; i++) {
      const value = values[i]!;
      if (value < least) least = value;
      if (value > largest) largest = value;
    }
    const scale = Math.fround(Math.max(largest - least, MIN_RANGE) / MAX_CODE);
    result.scales[group] = scale;
    result.zeros[group] = least;
    roundGroup(values, result.codes, start, end, least, 1 / scale, key);
  }
  return result;
}

function roundGroup(
  values: Float32Array,
  codes: Uint8Array,
  start: number,
  end: number,
  zero: number,
  inverse: number,
  key: RandomKey | null,
): void {
  for (let i = start; i < end; i++) {
    const up = key === null ? 0.5 : randomUniform(key, i);
    const code = ((values[i]! - zero) * inverse + up) | 0; // not negative: rounds down
    codes[i] = code > MAX_CODE ? MAX_CODE : code;
  }
}

/** The numbers the codes stand for. */
export function restoreWeight({ codes, scales, zeros }: WeightCodes): Float32Array {
  const count = codes.length;
  const values = new Float32Array(count);
  for (let group = 0, start = 0; start < count; group++, start += WEIGHT_GROUP) {
    const end = Math.min(count, start + WEIGHT_GROUP);
    const [scale, zero] = [scales[group]!, zeros[group]!];
    for (let i = start; i < end; i++) values[i] = zero + codes[i]! * scale;
  }
  return values;
}
