/**
 * The coordinator's part in a refresh: sums of sketches, and the factors that trainers made of them.
 * Holds one refresh at a time; see docs/protocol.md, "Refresh rounds".
 */
import { bytesOf } from '../array-bytes.ts';
import { squaredNormOfSum, sumEncoded, type EncodedPart } from '../galore/aggregate/mean.ts';
import { MEAN, type Aggregation } from '../galore/aggregate/rules.ts';
import { codecFor } from '../galore/codec/codec.ts';
import { BASIS_TOLERANCE, checkBasis, FACTOR_TOLERANCE } from '../galore/projection/check.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import { basisRows, basisShape, keepsError, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import { derive } from '../random.ts';
import type { SlotSizes } from '../protocol/slot-sizes.ts';
import { chooseTrainers, onlyOf, type ComparedTensor } from './choose-trainers.ts';
import type { FactorJob } from './core/state.ts';
import { encodedPart, type WeightedTensors } from './update-sums.ts';
import type { StagedTensor } from './staging.ts';

/** A factor as a trainer sent it. */
export interface Offer {
  readonly bytes: Uint8Array;
  /** How much of the old basis a new one keeps, as that trainer says; -1: not said. */
  readonly similarity: number;
}

export class RefreshSums {
  readonly #slots: readonly Slot[];
  readonly #sizes: readonly SlotSizes[];
  readonly #refresh: RefreshPlan;
  readonly #probeSeed: number;
  #step = 0;
  #round = 0;
  readonly #sums = new Map<number, Float32Array>();
  /** What each trainer made of the sums it was given; null: the sum was zero. */
  readonly #offers = new Map<string, Map<number, Offer | null>>();
  /** The factors of the round before, once it is settled whose count. */
  readonly #factors = new Map<number, Offer>();
  /** Slots whose gradient was zero: they keep their basis. */
  readonly #zeroSlots = new Set<number>();

  /** @param probeSeed a number the trainers do not know: they must not see the probes coming */
  constructor(slots: readonly Slot[], sizes: readonly SlotSizes[], refresh: RefreshPlan, probeSeed: number) {
    this.#slots = slots;
    this.#sizes = sizes;
    this.#refresh = refresh;
    this.#probeSeed = probeSeed;
  }

  /** Starts a round; the first of a refresh forgets the one before. */
  begin(step: number, round: number, isFirst = round === 1): void {
    if (isFirst) this.clear();
    this.#sums.clear();
    this.#offers.clear();
    this.#step = step;
    this.#round = round;
  }

  /** Of these slots, the ones whose gradient is not known to be zero. */
  active(slots: readonly number[]): readonly number[] {
    return slots.filter((slot) => !this.#zeroSlots.has(slot));
  }

  /**
   * Sums the sketches of the round; contributions ascending by trainer id, weights sum to one. Sketches of what a slot
   * keeps are parts of a sum, like what it sends: theirs count as they are. A robust rule is that of the contributions,
   * and works on each round by itself: a rule that chooses trainers chooses them by all sketches of the round.
   */
  sum(slots: readonly number[], sketches: readonly WeightedTensors[], aggregation: Aggregation = MEAN): void {
    const chosen = chooseTrainers(aggregation, sketches.length, this.#compared(slots, sketches));
    const counted = chosen === null ? sketches : onlyOf(sketches, chosen);
    const rule = aggregation.by === 'slot' ? aggregation.rule(sketches.length) : undefined;
    for (const index of this.active(slots)) {
      this.#sums.set(index, sumEncoded(this.#partsOf(index, counted), this.#countOf(index), rule).sum);
    }
  }

  *#compared(slots: readonly number[], sketches: readonly WeightedTensors[]): Generator<ComparedTensor> {
    for (const index of this.active(slots)) {
      yield { parts: this.#partsOf(index, sketches), count: this.#countOf(index) };
    }
  }

  /** Norm of one trainer's sketches of the round over these slots, as `contributionNorm`. */
  normOf(slots: readonly number[], tensors: WeightedTensors['tensors'], share: number): number {
    const squares = this.active(slots).map((index) =>
      squaredNormOfSum(
        this.#partsOf(index, [{ weight: 1, scale: 1 / share, tensors }]),
        this.#countOf(index),
      ),
    );
    return Math.sqrt(squares.reduce((total, square) => total + square, 0));
  }

  #partsOf(index: number, sketches: readonly WeightedTensors[]): EncodedPart[] {
    const isPart = keepsError(this.#slots[index]!);
    return sketches.flatMap((sketch) => {
      const tensor = sketch.tensors.get(index);
      return tensor === undefined ? [] : [encodedPart(tensor, sketch, isPart)];
    });
  }

  /** Numbers of a slot's sketch in this round. */
  #countOf(index: number): number {
    return (this.#sizes[index]?.sketches[this.#round - 1]?.totalBytes ?? 0) / 4;
  }

  /** A sum that was made elsewhere. */
  takeSum(index: number, sum: Float32Array): void {
    this.#sums.set(index, sum);
  }

  /** The summed sketch of a slot as bytes, for the trainer that factorises it. */
  sumOf(index: number): Uint8Array | null {
    const sum = this.#sums.get(index);
    return sum === undefined ? null : bytesOf(sum);
  }

  /**
   * Takes the factors of one trainer after checking them.
   * @returns why they are refused, in words, or null
   */
  accept(
    trainerId: string,
    slots: readonly number[],
    zeroSlots: readonly number[],
    tensors: ReadonlyMap<number, StagedTensor>,
    similarities: ReadonlyMap<number, number> = new Map(),
  ): string | null {
    const offer = this.#offers.get(trainerId) ?? new Map<number, Offer | null>();
    this.#offers.set(trainerId, offer);
    for (const index of this.active(slots)) {
      const bytes = zeroSlots.includes(index) ? null : (tensors.get(index)?.bytes ?? null);
      const fault = bytes === null ? this.#checkZero(index) : this.#checkFactor(index, bytes);
      if (fault !== null) return fault;
      offer.set(index, bytes && { bytes, similarity: similarities.get(index) ?? -1 });
    }
    return null;
  }

  /** The round is over: these jobs' factors count. */
  settle(jobs: readonly FactorJob[]): void {
    for (const { trainerId, slots } of jobs) {
      for (const index of this.active(slots)) {
        const offer = this.#offers.get(trainerId)?.get(index) ?? null;
        if (offer === null) this.#zeroSlots.add(index);
        else this.#factors.set(index, offer);
      }
    }
    for (const index of this.#zeroSlots) this.#factors.delete(index);
  }

  /** The settled factors (after the last round: the bases) by slot. */
  get factors(): ReadonlyMap<number, Offer> {
    return this.#factors;
  }

  /** Forgets everything: the bases are committed, or the step was given up. */
  clear(): void {
    this.#sums.clear();
    this.#offers.clear();
    this.#factors.clear();
    this.#zeroSlots.clear();
  }

  #checkZero(index: number): string | null {
    const isZero = this.#sums.get(index)?.every((value) => value === 0) ?? true;
    return isZero ? null : `slot ${index} is called zero but its sketch is not`;
  }

  #checkFactor(index: number, bytes: Uint8Array): string | null {
    const slot = this.#slots[index] as ProjectedSlot;
    const plan = sketchPlan(slot, this.#round, this.#refresh);
    const [rows] = plan.isFinal ? basisShape(slot) : plan.sketchShape;
    const columns = bytes.length / (4 * rows);
    const values = codecFor('f32').decode(bytes, rows * columns);
    const tolerance = plan.isFinal ? BASIS_TOLERANCE : FACTOR_TOLERANCE;
    let from = 0;
    for (const [half, halfRows] of (plan.isFinal ? basisRows(slot) : [rows]).entries()) {
      const part = values.subarray(from, (from += halfRows * columns));
      const key = derive(this.#probeSeed, 'probe', this.#step, this.#round, index, half);
      const fault = checkBasis(part, halfRows, columns, key, tolerance);
      if (fault !== null) return `the factor of ${slot.name}: ${fault}`;
    }
    return null;
  }
}
