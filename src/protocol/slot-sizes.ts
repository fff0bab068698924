/**
 * The exact size of every tensor that can travel for a slot. Pure. Both ends expect nothing else;
 * docs/protocol.md, "Refresh rounds", has the shapes in words.
 */
import type { Slot } from '../galore/slot.ts';
import type { CodecName } from './messages.ts';
import type { ExpectedTensor } from './parts.ts';

/** What of the configuration decides about sizes. */
export interface SizeOptions {
  readonly codec: CodecName;
  readonly refresh: {
    readonly type: 'sketch' | 'exact';
    readonly oversample: number;
    readonly power_iterations: number;
  };
}

/** Sizes of one slot. */
export interface SlotSizes {
  /** Streams CONTRIBUTION and UPDATE. */
  readonly payload: ExpectedTensor;
  /** Stream BASIS, and FACTOR of the last round; null for a dense slot. */
  readonly basis: ExpectedTensor | null;
  /** Streams SKETCH and SKETCH_SUM, and FACTOR of all rounds but the last; [round - 1]. Empty for a dense slot. */
  readonly sketches: readonly ExpectedTensor[];
}

/** The table, by slot index. */
export function slotSizes(slots: readonly Slot[], options: SizeOptions): readonly SlotSizes[] {
  throw new Error(`not written yet: ${slots.length} ${options.codec}`);
}
