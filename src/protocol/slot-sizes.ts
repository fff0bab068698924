/**
 * The exact size of every tensor that can travel for a slot. Pure. Both ends expect nothing else;
 * docs/protocol.md, "Refresh rounds", has the shapes in words.
 */
import {
  basisShape,
  matrixShape,
  payloadShape,
  sizeOf,
  type ProjectedSlot,
  type Slot,
} from '../galore/slot.ts';
import type { CodecName } from './messages.ts';
import type { ExpectedTensor } from './parts.ts';

/** Numbers that share one scale in codec int8. */
export const INT8_BLOCK = 256;
/** A payload with fewer elements is f32 whatever the run's codec is. */
export const MIN_INT8_ELEMENTS = 4096;

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

/** Bytes of `elements` numbers in a codec. */
export function encodedBytes(codec: CodecName, elements: number): number {
  return codec === 'f32' ? 4 * elements : 4 * Math.ceil(elements / INT8_BLOCK) + elements;
}

/** Columns of a slot's sketch: rank + oversample, no more than the matrix has. */
export function sketchColumns(slot: ProjectedSlot, oversample: number): number {
  return Math.min(slot.rank + oversample, ...matrixShape(slot));
}

/**
 * Shapes of the summed products X_1 … X_L of a refresh, in the order of the rounds. With the basis on a side of
 * d elements and the other of e: the last one, and every second before it, is [d, k], the others [e, k]. An exact refresh
 * has one round, the gradient oriented to [d, e].
 */
export function sketchShapes(
  slot: ProjectedSlot,
  refresh: SizeOptions['refresh'],
): readonly (readonly [number, number])[] {
  const [m, n] = matrixShape(slot);
  const [basisExtent, otherExtent] = slot.side === 'left' ? [m, n] : [n, m];
  if (refresh.type === 'exact') return [[basisExtent, otherExtent]];
  const columns = sketchColumns(slot, refresh.oversample);
  const rounds = 2 * refresh.power_iterations + 1;
  return Array.from(
    { length: rounds },
    (_, index) => [index % 2 === 0 ? basisExtent : otherExtent, columns] as const,
  );
}

/** The table, by slot index. */
export function slotSizes(slots: readonly Slot[], options: SizeOptions): readonly SlotSizes[] {
  return slots.map((slot): SlotSizes => {
    const elements = sizeOf(payloadShape(slot));
    const codec = elements < MIN_INT8_ELEMENTS ? 'f32' : options.codec;
    const payload = { codec, totalBytes: encodedBytes(codec, elements) };
    if (slot.policy === 'dense') return { payload, basis: null, sketches: [] };
    return {
      payload,
      basis: dense(basisShape(slot)),
      sketches: sketchShapes(slot, options.refresh).map(dense),
    };
  });
}

function dense(shape: readonly number[]): ExpectedTensor {
  return { codec: 'f32', totalBytes: encodedBytes('f32', sizeOf(shape)) };
}
