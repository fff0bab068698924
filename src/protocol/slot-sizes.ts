/**
 * The exact size of every tensor that can travel for a slot. Pure. Both ends expect nothing else;
 * docs/protocol.md, "Refresh rounds", has the shapes in words.
 */
import { codecFor, codecOfPayload } from '../galore/codec/codec.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import { rowsBytes, rowsIn } from '../galore/rows.ts';
import {
  basisShape,
  hasBasis,
  sizeOf,
  stepKinds,
  tensorLength,
  type ProjectedSlot,
  type Slot,
} from '../galore/slot.ts';
import type { CodecName } from './messages.ts';
import type { ExpectedTensor } from './parts.ts';

/** The ranks a refresh may choose: multiples of `multiple` from `minRank` on, and the slot's configured rank. */
export interface RankLimits {
  readonly minRank: number;
  readonly multiple: number;
}

/** How the payloads of a slot are encoded, if they are not very short. */
export interface SlotCodecs {
  readonly contribution: CodecName;
  readonly update: CodecName;
}

/** The same codec for all that travels. */
export function sameCodec(slots: readonly Slot[], codec: CodecName): readonly SlotCodecs[] {
  return slots.map(() => ({ contribution: codec, update: codec }));
}

/** What of the configuration decides about sizes. */
export interface SizeOptions {
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
  readonly refresh: RefreshPlan;
  /** Of adaptive ranks; null: ranks are as configured. */
  readonly ranks: RankLimits | null;
}

/** Sizes of one slot. */
export interface SlotSizes {
  /** At its rank of now. */
  readonly slot: Slot;
  readonly codecs: SlotCodecs;
  /** Stream BASIS, and FACTOR of the last round, at the slot's rank; null for a slot without a basis. */
  readonly basis: ExpectedTensor | null;
  /** Streams SKETCH and SKETCH_SUM, and FACTOR of all rounds but the last; [round - 1]. Empty for a dense slot. */
  readonly sketches: readonly ExpectedTensor[];
  /** Of a slot whose rank a refresh may change: what the sizes at another rank follow from. */
  readonly adaptive?: AdaptiveSize | undefined;
}

interface AdaptiveSize extends RankLimits {
  /** With the configured rank, which is the greatest. */
  readonly slot: ProjectedSlot;
}

/** Ranks by slot index. */
export type Ranks = ReadonlyMap<number, number>;

/** The table, by slot index, at the configured ranks. */
export function slotSizes(slots: readonly Slot[], options: SizeOptions): readonly SlotSizes[] {
  const { refresh, ranks } = options;
  return slots.map((slot): SlotSizes => {
    const codecs = options.codecs[slot.index]!;
    if (!hasBasis(slot)) return { slot, codecs, basis: null, sketches: [] };
    const sketches = Array.from({ length: refresh.rounds }, (_, index) =>
      factorSize(slot, index + 1, refresh),
    );
    const basis = sized('f32', basisShape(slot));
    return { slot, codecs, basis, sketches, adaptive: ranks === null ? undefined : { ...ranks, slot } };
  });
}

/** Every codec in which contributions and updates travel in some step. */
export function codecsInUse(table: readonly SlotSizes[]): readonly CodecName[] {
  const streams = ['contribution', 'update'] as const;
  const codecs = table.flatMap(({ slot, codecs: configured }) =>
    streams.flatMap((stream) =>
      stepKinds(slot).map(({ step }) => codecOfPayload(slot, step, configured[stream])),
    ),
  );
  return [...new Set(codecs)];
}

/**
 * The size of a slot's tensor of stream CONTRIBUTION or UPDATE in step `step`, of a row-sparse slot the greatest;
 * without bytes: none travels. Flushed it is f32 whatever the codec.
 */
export function payloadSize(
  { slot, codecs }: SlotSizes,
  stream: keyof SlotCodecs,
  step: number,
  isFlushed = false,
): ExpectedTensor {
  const codec = isFlushed ? 'f32' : codecOfPayload(slot, step, codecs[stream]);
  if (slot.policy !== 'row-sparse') return sized(codec, [tensorLength(slot, step)]);
  return { codec, totalBytes: rowsBytes(slot, codec, slot.mostRows) };
}

/** What a payload of `totalBytes` must be: of a row-sparse slot any number of rows up to the greatest. */
export function payloadOfLength(
  sizes: SlotSizes,
  stream: keyof SlotCodecs,
  step: number,
  totalBytes: number,
  isFlushed = false,
): ExpectedTensor | string {
  const { slot } = sizes;
  const greatest = payloadSize(sizes, stream, step, isFlushed);
  if (slot.policy !== 'row-sparse') return greatest;
  if (rowsIn(slot, greatest.codec as CodecName, totalBytes) !== null) return { ...greatest, totalBytes };
  return `${totalBytes} bytes of ${greatest.codec} are not 0 to ${slot.mostRows} rows of ${slot.name}`;
}

/** Steps of every kind, of all slots. */
export function kindsOfSteps(table: readonly SlotSizes[]): readonly number[] {
  return [...new Set(table.flatMap(({ slot }) => stepKinds(slot).map(({ step }) => step)))];
}

/** Bytes of a whole contribution, of the largest one where steps differ. */
export function contributionBytes(table: readonly SlotSizes[]): number {
  return Math.max(0, ...kindsOfSteps(table).map((step) => bytesInStep(table, step)));
}

/** The same in the mean over all steps. */
export function meanContributionBytes(table: readonly SlotSizes[]): number {
  return table.reduce((sum, sizes) => sum + meanBytes(sizes), 0);
}

function meanBytes(sizes: SlotSizes): number {
  const kinds = stepKinds(sizes.slot);
  return kinds.reduce(
    (sum, { step, share }) => sum + share * payloadSize(sizes, 'contribution', step).totalBytes,
    0,
  );
}

function bytesInStep(table: readonly SlotSizes[], step: number): number {
  return table.reduce((sum, sizes) => sum + payloadSize(sizes, 'contribution', step).totalBytes, 0);
}

/** The table at other ranks; slots whose rank is fixed stay as they are. */
export function sizesAt(table: readonly SlotSizes[], ranks: Ranks): readonly SlotSizes[] {
  if (ranks.size === 0) return table;
  return table.map((sizes, index) => {
    const { adaptive } = sizes;
    const rank = ranks.get(index);
    if (adaptive === undefined || rank === undefined) return sizes;
    const slot = { ...adaptive.slot, rank };
    return { ...sizes, slot, basis: sized('f32', basisShape(slot)) };
  });
}

/** What a new basis of `totalBytes` must be: of the slot's rank or, where ranks are adaptive, of any that is allowed. */
export function basisSize(sizes: SlotSizes, totalBytes: number): ExpectedTensor | string {
  const { basis, adaptive } = sizes;
  if (basis === null) return 'the slot is not projected';
  if (adaptive === undefined) return basis;
  const rank = rankOfBasis(adaptive, totalBytes);
  const fault = rankFault(adaptive, rank);
  return fault ?? { codec: 'f32', totalBytes };
}

/** The ranks that the bases of a snapshot have, of slots whose rank a refresh may change. */
export function ranksIn(
  tensors: readonly { readonly name: string; readonly shape: readonly number[] }[],
  table: readonly SlotSizes[],
): Ranks {
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape]));
  return new Map(
    table.flatMap(({ adaptive }) => {
      const rank = adaptive && shapes.get(`basis/${adaptive.slot.name}`)?.[1];
      return rank === undefined ? [] : [[adaptive!.slot.index, rank] as const];
    }),
  );
}

/** The rank of a basis of that many bytes; not a whole number where there is no such basis. */
export function rankOfBasis({ slot }: Pick<AdaptiveSize, 'slot'>, totalBytes: number): number {
  const [rows] = basisShape(slot);
  return totalBytes / (4 * rows);
}

function rankFault({ slot, minRank, multiple }: AdaptiveSize, rank: number): string | null {
  const isAllowed = rank === slot.rank || (rank >= minRank && rank < slot.rank && rank % multiple === 0);
  if (isAllowed) return null;
  return `a basis of rank ${rank} is not allowed: multiples of ${multiple} from ${minRank}, and ${slot.rank}, are`;
}

function factorSize(slot: ProjectedSlot, round: number, refresh: RefreshPlan): ExpectedTensor {
  return sized('f32', sketchPlan(slot, round, refresh).sketchShape);
}

function sized(codec: CodecName, shape: readonly number[]): ExpectedTensor {
  return { codec, totalBytes: codecFor(codec).encodedBytes(sizeOf(shape)) };
}
