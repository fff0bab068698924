/**
 * The coordinator's part in a refresh: sums of sketches, and the factors that trainers made of them.
 * Holds one refresh at a time; see docs/protocol.md, "Refresh rounds".
 */
import { sumEncoded } from '../galore/aggregate/mean.ts';
import { codecFor } from '../galore/codec/codec.ts';
import { checkBasis } from '../galore/projection/check.ts';
import { sketchPlan, type RefreshPlan } from '../galore/projection/sketch.ts';
import { basisShape, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import { derive } from '../random.ts';
import type { SlotSizes } from '../protocol/slot-sizes.ts';
import type { WeightedTensors } from './records.ts';
import type { StagedTensor } from './staging.ts';

export class RefreshSums {
  readonly #slots: readonly Slot[];
  readonly #sizes: readonly SlotSizes[];
  readonly #refresh: RefreshPlan;
  readonly #probeSeed: number;
  #step = 0;
  #round = 0;
  readonly #sums = new Map<number, Float32Array>();
  readonly #factors = new Map<number, Uint8Array>();
  /** Slots whose gradient was zero: they keep their basis. */
  readonly #zeroSlots = new Set<number>();

  /** @param probeSeed a number the trainers do not know: they must not see the probes coming */
  constructor(slots: readonly Slot[], sizes: readonly SlotSizes[], refresh: RefreshPlan, probeSeed: number) {
    this.#slots = slots;
    this.#sizes = sizes;
    this.#refresh = refresh;
    this.#probeSeed = probeSeed;
  }

  /** Starts a round; round 1 forgets the refresh before. */
  begin(step: number, round: number): void {
    if (round === 1) this.clear();
    this.#sums.clear();
    this.#step = step;
    this.#round = round;
  }

  /** Of these slots, the ones whose gradient is not known to be zero. */
  active(slots: readonly number[]): readonly number[] {
    return slots.filter((slot) => !this.#zeroSlots.has(slot));
  }

  /** Sums the sketches of the round; contributions ascending by trainer id, weights sum to one. */
  sum(slots: readonly number[], sketches: readonly WeightedTensors[]): void {
    const codec = codecFor('f32');
    for (const index of this.active(slots)) {
      const count = (this.#sizes[index]?.sketches[this.#round - 1]?.totalBytes ?? 0) / 4;
      const parts = sketches.flatMap(({ weight, tensors }) => {
        const tensor = tensors.get(index);
        return tensor === undefined ? [] : [{ bytes: tensor.bytes, codec, weight }];
      });
      this.#sums.set(index, sumEncoded(parts, count).sum);
    }
  }

  /** The summed sketch of a slot as bytes, for the trainer that factorises it. */
  sumOf(index: number): Uint8Array | null {
    const sum = this.#sums.get(index);
    return sum === undefined ? null : new Uint8Array(sum.buffer, sum.byteOffset, sum.byteLength);
  }

  /**
   * Takes the factors of one job after checking them.
   * @returns why they are refused, in words, or null
   */
  accept(
    slots: readonly number[],
    zeroSlots: readonly number[],
    tensors: ReadonlyMap<number, StagedTensor>,
  ): string | null {
    for (const index of this.active(slots)) {
      const fault = zeroSlots.includes(index) ? this.#acceptZero(index) : this.#acceptFactor(index, tensors);
      if (fault !== null) return fault;
    }
    return null;
  }

  /** The factors (after the last round: the bases) by slot. */
  get factors(): ReadonlyMap<number, Uint8Array> {
    return this.#factors;
  }

  /** Forgets everything: the bases are committed, or the step was given up. */
  clear(): void {
    this.#sums.clear();
    this.#factors.clear();
    this.#zeroSlots.clear();
  }

  #acceptZero(index: number): string | null {
    if (this.#sums.get(index)?.some((value) => value !== 0)) {
      return `slot ${index} is called zero but its sketch is not`;
    }
    this.#zeroSlots.add(index);
    this.#factors.delete(index);
    return null;
  }

  #acceptFactor(index: number, tensors: ReadonlyMap<number, StagedTensor>): string | null {
    const tensor = tensors.get(index);
    if (tensor === undefined) return `the factor of slot ${index} is missing`;
    const slot = this.#slots[index] as ProjectedSlot;
    const plan = sketchPlan(slot, this.#round, this.#refresh);
    const [rows, columns] = plan.isFinal ? basisShape(slot) : plan.sketchShape;
    const values = codecFor('f32').decode(tensor.bytes, rows * columns);
    const key = derive(this.#probeSeed, 'probe', this.#step, this.#round, index);
    const fault = checkBasis(values, rows, columns, key);
    if (fault !== null) return `the factor of ${slot.name}: ${fault}`;
    this.#factors.set(index, tensor.bytes);
    return null;
  }
}
