/** What is fuzzed: a decoder with inputs to begin with, and the errors it may throw. */
import type { GaloreError } from '../../src/errors.ts';
import type { Dice } from './dice.ts';

/** A decoder under test. */
export interface FuzzTarget {
  readonly name: string;
  /** The next input, from scratch or from one that is right. */
  generate(dice: Dice): Uint8Array;
  /** Decodes. Throws a GaloreError that the target allows, or what must not be. A thrown Broken is a broken promise. */
  decode(input: Uint8Array): void | Promise<void>;
  /** The kinds of refusals that are right. */
  readonly refusals: readonly (new (...args: never[]) => GaloreError)[];
  /** Bytes that decoding may take beside a few times those of the input. */
  readonly allowanceBytes?: number;
  close?(): void | Promise<void>;
}

/** Something that holds for what is accepted does not hold. */
export class Broken extends Error {}
