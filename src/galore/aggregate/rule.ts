/** What a rule is that makes one tensor of those of all trainers; one file each, rules.ts finds them. Pure. */
import type { TensorReader } from '../codec/tensor-codec.ts';

/** One trainer's tensor, opened; in ascending trainer id. */
export interface OpenedPart {
  readonly reader: TensorReader;
  /** What its numbers count in the mean: share times scale. */
  readonly weight: number;
  /** p_i = c_i / C, its part of all tokens. The shares sum to one. */
  readonly share: number;
  /**
   * What makes its numbers comparable with those of others: 1 for means; 1 / p_i for parts of a sum, which are then
   * means, too, and whose mean is the sum; times what the norm was clipped by.
   */
  readonly scale: number;
}

/** Leaves what the rule makes of the chunk that begins at `start` in `chunk.sums`, and zeros behind it to the end of the group. */
export type ChunkRule = (start: number, length: number) => void;

/** A rule that needs no more than the tensors of one slot. */
export interface SlotRule {
  /** Opened for tensors of `count` numbers, of at least one trainer. Chunks are asked for from the first to the last. */
  open(parts: readonly OpenedPart[], count: number): ChunkRule;
}
