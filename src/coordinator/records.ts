/**
 * Makes records: the frames (Parts, then a Commit) that are journalled and then sent to every
 * trainer. Summation is in the order of the trainers given, in f64; each tensor is encoded once.
 */
import { clipFactor, encodeSum, squaredNormOfSum, type EncodedPart } from '../galore/aggregate/mean.ts';
import { codecFor, codecOfPayload } from '../galore/codec/codec.ts';
import { carriesSums, hasBasis, payloadShape, sizeOf, travels, type Slot } from '../galore/slot.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { recordDigest } from '../protocol/digest.ts';
import type { BasisRecord, CommitMessage, UpdateRecord } from '../protocol/messages.ts';
import { splitIntoParts } from '../protocol/parts.ts';
import type { SlotCodecs } from '../protocol/slot-sizes.ts';
import { derive } from '../random.ts';
import type { Cursor, Received, Shard } from './core/state.ts';
import type { StagedTensor } from './staging.ts';

/** A record ready for the journal and the wire. */
export interface SealedRecord {
  readonly frames: readonly Uint8Array[];
  readonly commit: CommitMessage;
}

/** Where a record stands in the journal. */
export interface RecordPlace {
  readonly sequence: number;
  readonly step: number;
  readonly previousDigest: Uint8Array;
}

/** One trainer's part in a sum. */
export interface WeightedTensors {
  readonly weight: number;
  readonly tensors: ReadonlyMap<number, StagedTensor>;
}

/** A slot's new basis, f32. */
export interface NewBasis {
  readonly bytes: Uint8Array;
  /** With adaptive ranks; of all bases of a record, or of none. */
  readonly rank?: number | undefined;
  /** If the run asks for it; of all or of none, -1 for a slot that had no basis. */
  readonly similarity?: number | undefined;
}

/** Everything an update record is made of. */
export interface UpdateInput {
  readonly slots: readonly Slot[];
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
  readonly seed: number;
  readonly learningRate: number;
  readonly maxGradNorm: number | undefined;
  /** Ascending trainer id; weights sum to one. */
  readonly contributions: readonly WeightedTensors[];
  readonly received: readonly Received[];
  readonly shards: readonly Shard[];
  readonly cursor: Cursor;
  /** Whether the record tells the norm of each slot with a basis. */
  readonly tellsNorms?: boolean;
}

/**
 * Sums the contributions of a step (algorithms: p_i = c_i / C, exact by linearity) and seals the
 * record that all trainers apply. `Commit.update.gradient_norm` is the norm before clipping.
 */
export function sealUpdate(place: RecordPlace, input: UpdateInput): SealedRecord {
  const { slots, contributions, maxGradNorm } = input;
  // Clipping needs the norm of all slots first and so sums twice.
  const clip =
    maxGradNorm === undefined ? 1 : clipFactor(normOf(slots, place.step, contributions), maxGradNorm);
  const parts: Uint8Array[] = [];
  let squaredNorm = 0;
  const slotNorms: number[] = [];
  const travelling = slots.filter(travels).map((slot) => {
    const count = sizeOf(payloadShape(slot, place.step));
    const codec = codecOfPayload(count, input.codecs[slot.index]!.update);
    return { slot, count, codec, encodedBytes: codecFor(codec).encodedBytes(count) };
  });
  // The frames have copies of it.
  const scratch = new Uint8Array(Math.max(0, ...travelling.map(({ encodedBytes }) => encodedBytes)));
  for (const { slot, count, codec, encodedBytes } of travelling) {
    const key = derive(input.seed, 'update', place.step, slot.index);
    const writer = codecFor(codec).writer(count, key, scratch.subarray(0, encodedBytes));
    const squared = encodeSum(partsOf(slot, contributions), count, writer, clip);
    squaredNorm += squared;
    if (hasBasis(slot)) slotNorms.push(Math.sqrt(squared));
    const header = { stream: 'update', step: place.step, round: 0, tensor: slot.index, codec } as const;
    for (const part of splitIntoParts(header, writer.bytes)) parts.push(encodeEnvelope(part));
  }
  return seal(place, parts, {
    type: 'update',
    learningRate: input.learningRate,
    tokens: input.received.reduce((total, { tokens }) => total + tokens, 0),
    lossSum: input.received.reduce((total, { lossSum }) => total + lossSum, 0),
    members: input.received.map(({ trainerId, tokens }) => ({
      trainerId,
      tokens,
      positions: [...(input.shards.find((shard) => shard.trainerId === trainerId)?.positions ?? [])],
    })),
    cursor: { next: input.cursor.next, returned: [...input.cursor.returned] },
    gradientNorm: Math.sqrt(squaredNorm),
    slotNorms: input.tellsNorms === true ? slotNorms : [],
  });
}

/** Seals the record that installs new bases; a slot without a basis here keeps its old one. */
export function sealBases(
  place: RecordPlace,
  refreshed: readonly number[],
  bases: ReadonlyMap<number, NewBasis>,
): SealedRecord {
  const parts: Uint8Array[] = [];
  for (const index of refreshed) {
    const basis = bases.get(index);
    if (basis === undefined) continue;
    const header = { stream: 'basis', step: place.step, round: 0, tensor: index, codec: 'f32' } as const;
    for (const part of splitIntoParts(header, basis.bytes)) parts.push(encodeEnvelope(part));
  }
  const renewed = refreshed.flatMap((index) => bases.get(index) ?? []);
  return seal(place, parts, {
    type: 'basis',
    slots: refreshed.filter((index) => bases.has(index)),
    keptSlots: refreshed.filter((index) => !bases.has(index)),
    isGenerated: false,
    ranks: renewed.flatMap(({ rank }) => rank ?? []),
    similarities: renewed.flatMap(({ similarity }) => similarity ?? []),
  });
}

/** Seals the record that tells every trainer to make new bases of these slots from the run's seed. */
export function sealGenerated(place: RecordPlace, slots: readonly number[]): SealedRecord {
  return seal(place, [], {
    type: 'basis',
    slots: [...slots],
    keptSlots: [],
    isGenerated: true,
    ranks: [],
    similarities: [],
  });
}

/** Norm of the summed contributions of all slots together. */
function normOf(slots: readonly Slot[], step: number, contributions: readonly WeightedTensors[]): number {
  const squares = slots.map((slot) =>
    squaredNormOfSum(partsOf(slot, contributions), sizeOf(payloadShape(slot, step))),
  );
  return Math.sqrt(squares.reduce((total, square) => total + square, 0));
}

/** What the trainers sent for one slot. */
function partsOf(slot: Slot, contributions: readonly WeightedTensors[]): EncodedPart[] {
  return contributions.flatMap(({ weight, tensors }) => {
    const tensor = tensors.get(slot.index);
    if (tensor === undefined) return [];
    return [{ bytes: tensor.bytes, codec: codecFor(tensor.codec), weight: carriesSums(slot) ? 1 : weight }];
  });
}

function seal(
  place: RecordPlace,
  parts: readonly Uint8Array[],
  record: BasisRecord | UpdateRecord,
): SealedRecord {
  const digest = recordDigest(place.previousDigest, place.sequence, place.step, parts);
  const commit: CommitMessage = { kind: 'commit', ...place, digest, record };
  return { frames: [...parts, encodeEnvelope(commit)], commit };
}
