/** Chance in the simulation: numbers one after another from a seed and a purpose. */
import { derive, randomUniform } from '../random.ts';

/** The next number in [0, 1). */
export type Dice = () => number;

/** Dice that always fall the same way for the same seed and purpose. */
export function createDice(seed: number, purpose: string): Dice {
  const key = derive(seed, 'simulation', purpose);
  let index = 0;
  return () => randomUniform(key, index++);
}

/** One of these. */
export function pick<T>(dice: Dice, items: readonly T[]): T {
  return items[Math.floor(dice() * items.length)] as T;
}
