/**
 * The record of an update, put together slot by slot: contributions are summed in the order of the trainers
 * given, in f64, or what a robust rule makes of them in the place of the sum, and each is encoded once.
 */
import {
  clipFactor,
  encodeSum,
  meanRule,
  squaredNormOfSum,
  type EncodedPart,
} from '../galore/aggregate/mean.ts';
import type { SlotRule } from '../galore/aggregate/rule.ts';
import { sumRows } from '../galore/aggregate/sum-rows.ts';
import { encodeRows } from '../galore/rows.ts';
import { codecFor, codecOfPayload } from '../galore/codec/codec.ts';
import {
  carriesSums,
  hasBasis,
  payloadShape,
  sizeOf,
  tensorLength,
  travels,
  type Slot,
} from '../galore/slot.ts';
import { RecordDigest } from '../protocol/digest.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { splitIntoParts } from '../protocol/parts.ts';
import type { SlotCodecs } from '../protocol/slot-sizes.ts';
import type { CodecName } from '../galore/codec/tensor-codec.ts';
import type { Member } from '../protocol/messages.ts';
import { derive, type RandomKey } from '../random.ts';
import type { ComparedTensor } from './choose-trainers.ts';
import type { Cursor, Received, Shard } from './core/state.ts';
import { seal, type RecordPlace, type SealedRecord } from './records.ts';
import type { StagedTensor } from './staging.ts';

/** One trainer's part in a sum. */
export interface WeightedTensors {
  /** Its share of the sum (weights.ts) times `scale`. Without scales they sum to one. */
  readonly weight: number;
  /** What its numbers are multiplied by, in slots whose contributions are parts of a sum, too; left out: 1. */
  readonly scale?: number;
  /** By slot, in the order in which they came. */
  readonly tensors: ReadonlyMap<number, StagedTensor>;
}

/** How slots are summed and encoded. */
export interface SumOptions {
  readonly slots: readonly Slot[];
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
  readonly seed: number;
  /** What is made of the contributions of a slot; left out: their sum. */
  readonly rule?: SlotRule | undefined;
}

/** What the Commit of an update says beside its numbers. */
export interface UpdateFacts {
  readonly learningRate: number;
  readonly received: readonly Received[];
  readonly shards: readonly Shard[];
  readonly cursor: Cursor;
  /** Whether the record tells the norm of each slot with a basis. */
  readonly tellsNorms?: boolean;
  /** Of each gateway among them those whose contributions it has summed. */
  readonly summed?: ReadonlyMap<string, readonly Member[]>;
}

/** Everything an update record is made of. */
export interface UpdateInput extends SumOptions, UpdateFacts {
  readonly maxGradNorm: number | undefined;
  /** Ascending trainer id. */
  readonly contributions: readonly WeightedTensors[];
}

export class UpdateSums {
  readonly place: RecordPlace;
  readonly #options: SumOptions;
  readonly #digest: RecordDigest;
  readonly #frames: Uint8Array[] = [];
  /** Squared norms of the sums before they were rounded, by slot. */
  readonly #squares = new Map<number, number>();
  /** Frames have copies of it. */
  #scratch = new Uint8Array(0);

  constructor(place: RecordPlace, options: SumOptions) {
    this.place = place;
    this.#options = options;
    this.#digest = new RecordDigest(place.previousDigest, place.sequence, place.step);
  }

  /** The Parts so far. */
  get frames(): readonly Uint8Array[] {
    return this.#frames;
  }

  /** How many slots are summed. */
  get count(): number {
    return this.#squares.size;
  }

  has(index: number): boolean {
    return this.#squares.has(index);
  }

  /** Sums and encodes a slot: sum p_i x_i with its share p_i (exact by linearity), times `factor`. */
  add(index: number, contributions: readonly WeightedTensors[], factor: number = 1): void {
    const { slots, codecs, seed, rule } = this.#options;
    const { step } = this.place;
    const slot = slots[index]!;
    const codec = codecOfPayload(slot, step, codecs[index]!.update);
    const key = derive(seed, 'update', step, index);
    const allocate = (byteLength: number): Uint8Array => this.#scratchOf(byteLength);
    const how = { codec, key, factor, rule, allocate };
    const { bytes, squaredNorm } = encodeSlotSum(slot, step, contributions, how);
    this.#squares.set(index, squaredNorm);
    const header = { stream: 'update', step, round: 0, tensor: index, codec } as const;
    for (const part of splitIntoParts(header, bytes)) {
      const frame = encodeEnvelope(part);
      this.#digest.addPartFrame(frame);
      this.#frames.push(frame);
    }
  }

  /** The record. `Commit.update.gradient_norm` is the norm before clipping. */
  seal({ learningRate, received, shards, cursor, tellsNorms, summed }: UpdateFacts): SealedRecord {
    const squares = [...this.#squares].sort(([a], [b]) => a - b);
    const projected = squares.filter(([index]) => hasBasis(this.#options.slots[index]!));
    const record = {
      type: 'update',
      learningRate,
      tokens: received.reduce((total, { tokens }) => total + tokens, 0),
      lossSum: lossOf(received),
      members: received.flatMap(({ trainerId, tokens, weight = tokens }): readonly Member[] => {
        const behind = summed?.get(trainerId);
        if (behind !== undefined) return behind;
        const positions = [...(shards.find((shard) => shard.trainerId === trainerId)?.positions ?? [])];
        return [{ trainerId, tokens, ...(weight === tokens ? {} : { weight }), positions }];
      }),
      cursor: { next: cursor.next, returned: [...cursor.returned] },
      gradientNorm: Math.sqrt(squares.reduce((total, [, square]) => total + square, 0)),
      slotNorms: tellsNorms === true ? projected.map(([, square]) => Math.sqrt(square)) : [],
    } as const;
    return seal(this.place, this.#frames, record, this.#digest.finish());
  }

  #scratchOf(byteLength: number): Uint8Array {
    if (byteLength > this.#scratch.length) this.#scratch = new Uint8Array(byteLength);
    return this.#scratch.subarray(0, byteLength);
  }
}

/** How the sum of a slot is encoded. */
export interface SlotEncoding {
  readonly codec: CodecName;
  /** Of the dice of its rounding. */
  readonly key: RandomKey;
  /** What the sum is multiplied by; left out: 1. */
  readonly factor?: number;
  readonly rule?: SlotRule | undefined;
  readonly allocate: (byteLength: number) => Uint8Array;
}

/** Sums one slot, sum p_i x_i with its share p_i, and encodes it; with the squared norm of the sum before that. */
export function encodeSlotSum(
  slot: Slot,
  step: number,
  contributions: readonly WeightedTensors[],
  { codec, key, factor = 1, rule, allocate }: SlotEncoding,
): { readonly bytes: Uint8Array; readonly squaredNorm: number } {
  const parts = partsOf(slot, contributions);
  if (slot.policy === 'row-sparse') {
    const { rows, values, squaredNorm } = sumRows(slot, parts);
    if (factor !== 1) values.forEach((value, i) => (values[i] = value * factor));
    return { bytes: encodeRows(codec, rows, values, key, allocate), squaredNorm };
  }
  const count = tensorLength(slot, step);
  const writer = codecFor(codec).writer(count, key, allocate(codecFor(codec).encodedBytes(count)));
  const normed = sizeOf(payloadShape(slot, step));
  const squaredNorm = encodeSum(parts, count, writer, factor, normed, rule);
  return { bytes: writer.bytes, squaredNorm };
}

/** Of those that tell theirs, as if the others' mean were the same; null: nobody does. */
function lossOf(received: readonly Received[]): number | null {
  const tokensOf = (parts: readonly Received[]): number => parts.reduce((sum, { tokens }) => sum + tokens, 0);
  const told = received.filter(({ lossSum }) => lossSum !== null);
  if (told.length === 0) return null;
  const sum = told.reduce((total, { lossSum }) => total + lossSum!, 0);
  return told.length === received.length ? sum : (sum / tokensOf(told)) * tokensOf(received);
}

/** Sums all slots at once, in the order in which the first trainer sent them, and seals the record. */
export function sealUpdate(place: RecordPlace, input: UpdateInput): SealedRecord {
  const { slots, contributions, maxGradNorm, rule } = input;
  // Clipping needs the norm of all slots first and so sums twice.
  const clip =
    maxGradNorm === undefined ? 1 : clipFactor(normOf(slots, place.step, contributions, rule), maxGradNorm);
  const sums = new UpdateSums(place, input);
  for (const index of slotOrder(slots, contributions)) sums.add(index, contributions, clip);
  return sums.seal(input);
}

/** The slots that travel, those first that the first trainer sent first. */
export function slotOrder(
  slots: readonly Slot[],
  contributions: readonly WeightedTensors[],
): Iterable<number> {
  const travelling = slots.filter(travels).map(({ index }) => index);
  const sent = [...(contributions[0]?.tensors.keys() ?? [])].filter((index) => travelling.includes(index));
  return new Set([...sent, ...travelling]);
}

/**
 * Norm of one trainer's contribution over all slots, comparable with those of others that have more tokens or fewer:
 * means are as they are, parts of a sum, which are a gradient times `share`, are divided by it.
 * @param share its tokens, of those of a whole step
 */
export function contributionNorm(
  slots: readonly Slot[],
  step: number,
  tensors: WeightedTensors['tensors'],
  share: number,
): number {
  return normOf(slots, step, [{ weight: 1, scale: 1 / share, tensors }]);
}

/** Norm of the summed contributions of all slots together. */
function normOf(
  slots: readonly Slot[],
  step: number,
  contributions: readonly WeightedTensors[],
  rule: SlotRule = meanRule,
): number {
  const squares = slots.map((slot) => {
    const parts = partsOf(slot, contributions);
    if (slot.policy === 'row-sparse') return sumRows(slot, parts).squaredNorm;
    return squaredNormOfSum(parts, tensorLength(slot, step), rule);
  });
  return Math.sqrt(squares.reduce((total, square) => total + square, 0));
}

/** What the trainers sent for the slots that travel, a slot at a time. */
export function* comparedSlots(
  slots: readonly Slot[],
  step: number,
  contributions: readonly WeightedTensors[],
): Generator<ComparedTensor> {
  for (const slot of slots.filter(travels)) {
    yield { parts: partsOf(slot, contributions), count: tensorLength(slot, step) };
  }
}

/** What the trainers sent for one slot. */
function partsOf(slot: Slot, contributions: readonly WeightedTensors[]): EncodedPart[] {
  return contributions.flatMap((contribution) => {
    const tensor = contribution.tensors.get(slot.index);
    if (tensor === undefined) return [];
    return [encodedPart(tensor, contribution, carriesSums(slot))];
  });
}

/**
 * One trainer's tensor for any rule. Parts of a sum are divided by the trainer's share of the tokens before they are
 * compared with others: that makes means of them, and the mean of these is the sum.
 * @param isPart of a sum; otherwise it is a mean over the trainer's tokens
 */
export function encodedPart(
  { bytes, codec }: StagedTensor,
  { weight, scale = 1 }: WeightedTensors,
  isPart: boolean,
): EncodedPart {
  const share = weight / scale;
  return {
    bytes,
    codec: codecFor(codec),
    weight: isPart ? scale : weight,
    share,
    scale: isPart ? scale / share : scale,
  };
}
