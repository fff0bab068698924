/**
 * What a run makes its trainers compute and send in each step, from its configuration and the shapes of its model:
 * the same sizes as `galore plan` has, slot by slot, in the order in which gradients come. Pure.
 */
import type { RunConfig } from '../../config/schema.ts';
import {
  messageBytes,
  ofShare,
  SAMPLE_CONTRIBUTION,
  sampleAssignment,
  sampleCommit,
  tensorBytes,
} from '../../coordinator/traffic-plan.ts';
import { sizeOf, type Slot } from '../../galore/slot.ts';
import { MAX_PART_BYTES } from '../../protocol/limits.ts';
import { payloadSize, type SlotSizes } from '../../protocol/slot-sizes.ts';
import { stepSequences, type RunShape } from '../../run-shape.ts';

/** A part of a contribution that is sent, summed and sent on as one; bytes are those on the socket. */
export interface Piece {
  /** When it is there, as a share of the trainer's compute time. */
  readonly readyShare: number;
  readonly upBytes: number;
  readonly downBytes: number;
  /** Messages that they come in, each way. */
  readonly parts: number;
}

/** Of one round of a refresh. */
export interface RefreshBytes {
  readonly sketch: number;
  readonly sum: number;
  readonly factorUp: number;
  /** To everyone: for the next round or, of the last one, as bases. */
  readonly factorDown: number;
  /** Messages of a sketch; a factor has about as many. */
  readonly parts: number;
}

export interface Workload {
  /** In the order in which they are there; the last one ends the contribution. */
  pieces(step: number): readonly Piece[];
  /** What all of these slots come to. */
  refresh(round: number, slots: readonly number[]): RefreshBytes;
  assignmentBytes(sequences: number): number;
  /** The end of a record. */
  readonly commitBytes: number;
  /** A message without content. */
  readonly messageBytes: number;
  readonly parameters: number;
}

/** Of the time of a step's products, what comes before the first gradient. */
const FORWARD_SHARE = 1 / 3;

/** @param most pieces of a contribution; a slot that is larger than its share of them is a piece of its own */
export function workloadOf(config: RunConfig, shape: RunShape, trainers: number, most: number): Workload {
  const stepTokens = stepSequences(config) * config.seq_len;
  const shares = shape.sizes.map((size) => ofShare(size, stepTokens, trainers));
  const order = gradientOrder(shape.slots, config);
  const parameters = shape.slots.reduce((sum, slot) => sum + sizeOf(slot.shape), 0);
  // Lines through two points: whole messages of so many trainers may be longer than messages can be.
  const assignmentOf = (sequences: number): number =>
    messageBytes(sampleAssignment(config, stepSequences(config) / sequences), false);
  const [one, two] = [assignmentOf(1), assignmentOf(2)];
  const share = Math.max(1, Math.round(config.batch_size / trainers));
  const commitOf = (members: number): number =>
    messageBytes(sampleCommit({ ...config, batch_size: share * members }, members), false);
  const [alone, both] = [commitOf(1), commitOf(2)];
  const last = messageBytes(SAMPLE_CONTRIBUTION, true);
  const known = new Map<number, readonly Piece[]>();
  const sizes = new Map<string, number>();
  /** Slots of one shape are many, and steps are mostly like the one before the last. */
  const bytesOf = (size: SlotSizes, stream: 'contribution' | 'update', step: number): number => {
    const payload = payloadSize(size, stream, step);
    const key = `${stream} ${payload.codec} ${payload.totalBytes}`;
    let bytes = sizes.get(key);
    if (bytes === undefined) sizes.set(key, (bytes = tensorBytes(payload, stream, size.slot.index)));
    return bytes;
  };
  return {
    parameters,
    messageBytes: last,
    commitBytes: alone + (trainers - 1) * (both - alone),
    assignmentBytes: (sequences) => one + Math.max(0, sequences - 1) * (two - one),
    pieces(step) {
      let pieces = known.get(step);
      if (pieces !== undefined) return pieces;
      const single = order.map(({ index, readyShare }): Piece => ({
        readyShare,
        upBytes: bytesOf(shares[index]!, 'contribution', step),
        downBytes: bytesOf(shape.sizes[index]!, 'update', step),
        parts: partsOf(payloadSize(shares[index]!, 'contribution', step).totalBytes),
      }));
      pieces = withEnd(joined(single, most), last);
      known.set(step, pieces);
      return pieces;
    },
    refresh(round, slots) {
      const total = { sketch: 0, sum: 0, factorUp: 0, factorDown: 0, parts: 0 };
      for (const index of slots) {
        const { sketches, basis } = shape.sizes[index]!;
        const isLast = round === sketches.length;
        const sketch = sketches[round - 1];
        const factor = isLast ? basis : sketch;
        if (sketch === undefined || factor === null || factor === undefined) continue;
        total.parts += partsOf(sketch.totalBytes);
        total.sketch += tensorBytes(sketch, 'sketch', index);
        total.sum += tensorBytes(sketch, 'sketchSum', index);
        total.factorUp += tensorBytes(factor, 'factor', index);
        total.factorDown += tensorBytes(factor, isLast ? 'basis' : 'factor', index);
      }
      return total;
    },
  };
}

/**
 * Slots in the order of their gradients, the last layers first, and when each is there: backward takes the time of
 * forward twice, in each layer by the size of its matrices. The embedding is looked up: its gradient is there
 * at the end. With local steps nothing is there before the end; with `wire.overlap: delayed` what
 * travels as power was there before the step.
 */
function gradientOrder(
  slots: readonly Slot[],
  config: RunConfig,
): readonly { readonly index: number; readonly readyShare: number }[] {
  const isMultiplied = ({ shape, name }: Slot): boolean => shape.length === 2 && !/embed/.test(name);
  const weigh = (slot: Slot): number => (isMultiplied(slot) ? sizeOf(slot.shape) : 0);
  const total = slots.reduce((sum, slot) => sum + weigh(slot), 0) || 1;
  let done = 0;
  return slots
    .toReversed()
    .map((slot) => {
      done += weigh(slot);
      const backward = FORWARD_SHARE + ((1 - FORWARD_SHARE) * done) / total;
      const isHeld = config.wire.overlap === 'delayed' && slot.policy === 'power';
      const readyShare = isHeld ? 0 : config.local_steps.count > 1 ? 1 : Math.min(1, backward);
      return { index: slot.index, readyShare };
    })
    .toSorted((a, b) => a.readyShare - b.readyShare);
}

/** A tensor has as many as its bytes fill. */
function partsOf(bytes: number): number {
  return Math.ceil(bytes / MAX_PART_BYTES);
}

/** Neighbours become one until there are no more than `most`, but for large ones; each is there when its last part is. */
function joined(single: readonly Piece[], most: number): readonly Piece[] {
  const bytes = single.reduce((sum, { upBytes, downBytes }) => sum + upBytes + downBytes, 0);
  const limit = bytes / most;
  const pieces: Piece[] = [];
  for (const piece of single) {
    const before = pieces.at(-1);
    const sum = (before?.upBytes ?? 0) + (before?.downBytes ?? 0) + piece.upBytes + piece.downBytes;
    if (before === undefined || sum > limit) {
      pieces.push(piece);
      continue;
    }
    pieces[pieces.length - 1] = {
      readyShare: piece.readyShare,
      upBytes: before.upBytes + piece.upBytes,
      downBytes: before.downBytes + piece.downBytes,
      parts: before.parts + piece.parts,
    };
  }
  return pieces;
}

function withEnd(pieces: readonly Piece[], lastBytes: number): readonly Piece[] {
  return pieces.map((piece, i) => ({
    ...piece,
    readyShare: i === pieces.length - 1 ? 1 : piece.readyShare,
    upBytes: piece.upBytes + (i === pieces.length - 1 ? lastBytes : 0),
    parts: piece.parts + (i === pieces.length - 1 ? 1 : 0),
  }));
}
