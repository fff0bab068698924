/** Seeded choices: the same seed makes the same ones, in order. */
import { derive, randomUint32 } from '../../src/random.ts';

export interface Dice {
  /** An integer from 0 to `count` - 1. */
  below(count: number): number;
  oneOf<T>(values: readonly T[]): T;
  /** True one time in `count`. */
  oneIn(count: number): boolean;
}

export function createDice(seed: number, ...labels: readonly (string | number)[]): Dice {
  const key = derive(seed, 'fuzz', ...labels);
  let index = 0;
  const below = (count: number): number => randomUint32(key, index++) % Math.max(1, count);
  return {
    below,
    oneOf: (values) => values[below(values.length)]!,
    oneIn: (count) => below(count) === 0,
  };
}
