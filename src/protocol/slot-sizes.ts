/**
 * The exact size of every tensor that can travel for a slot. Pure. Both ends expect nothing else;
 * docs/protocol.md, "Refresh rounds", has the shapes in words.
 */
import { codecFor, codecOfSlot } from '../galore/codec/codec.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import { basisShape, hasBasis, payloadShape, sizeOf, type Slot } from '../galore/slot.ts';
import type { CodecName } from './messages.ts';
import type { ExpectedTensor } from './parts.ts';

/** What of the configuration decides about sizes. */
export interface SizeOptions {
  readonly codec: CodecName;
  readonly refresh: RefreshPlan;
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
  const { refresh } = options;
  return slots.map((slot): SlotSizes => {
    const payload = sized(codecOfSlot(slot, options.codec), payloadShape(slot));
    if (!hasBasis(slot)) return { payload, basis: null, sketches: [] };
    const sketches = Array.from({ length: refresh.rounds }, (_, index) =>
      sized('f32', sketchPlan(slot, index + 1, refresh).sketchShape),
    );
    return { payload, basis: sized('f32', basisShape(slot)), sketches };
  });
}

function sized(codec: CodecName, shape: readonly number[]): ExpectedTensor {
  return { codec, totalBytes: codecFor(codec).encodedBytes(sizeOf(shape)) };
}
