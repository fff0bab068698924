/**
 * A trainer's side of a refresh: sketches of its gradients for each round, and factors of sums it is sent to
 * factorise. It keeps what came for the round until it is used.
 */
import type { RunConfig } from '../config/schema.ts';
import type { ProjectedSlot } from '../galore/slot.ts';
import type { FactorAssignmentMessage, FactorMessage, SketchRequestMessage } from '../protocol/messages.ts';
import type { RunShape } from '../run-shape.ts';
import { makeFactor } from './factor-job.ts';
import type { Replica } from './replica.ts';
import type { Work } from './step.ts';

export class RefreshWork {
  /** Sums to factorise, by slot. */
  readonly #sums = new Map<number, Float32Array>();
  /** Factors of the round before, by slot. */
  readonly #factors = new Map<number, Float32Array>();
  /** What the sketches of the round were asked for with. */
  #asked: { readonly seed: number; readonly factors: ReadonlyMap<number, Float32Array> } | null = null;

  takeSum(slot: number, values: Float32Array): void {
    this.#sums.set(slot, values);
  }

  takeFactor(slot: number, values: Float32Array): void {
    this.#factors.set(slot, values);
  }

  /** Has the round's sketches sent. */
  sketch(work: Work, { round, slots, seed }: SketchRequestMessage): void {
    const factors = new Map(this.#factors);
    this.#factors.clear();
    this.#asked = { seed, factors };
    work.sendSketches(round, slots, seed, factors);
  }

  /**
   * Factorises the sums that came, each of which is used up.
   * @param send called with each factor, row-major
   * @returns what to say when they are sent
   */
  factorise(
    { step, round, slots, isFinal }: FactorAssignmentMessage,
    { config, shape, replica }: { config: RunConfig; shape: RunShape; replica: Replica },
    send: (slot: number, factor: Float32Array) => void,
  ): FactorMessage {
    const { seed, factors } = this.#asked ?? { seed: config.seed, factors: this.#factors };
    const job = { shape, adaptiveRank: config.method.adaptive_rank, step, round, seed };
    const isLazy = isFinal && config.method.refresh.lazy_threshold !== undefined;
    const made: number[] = [];
    const similarities: number[] = [];
    const zeroSlots: number[] = [];
    for (const index of slots) {
      const slot = shape.slots[index] as ProjectedSlot;
      const sum = this.#sums.get(index);
      const factor = sum === undefined ? null : makeFactor(job, slot, sum, factors.get(index) ?? null);
      if (factor === null) {
        zeroSlots.push(index);
        continue;
      }
      made.push(index);
      if (isLazy) similarities.push(replica.similarity(slot, factor));
      send(index, factor);
    }
    this.#sums.clear();
    return { kind: 'factor', step, round, slots: made, zeroSlots, similarities };
  }

  clear(): void {
    this.#sums.clear();
    this.#factors.clear();
    this.#asked = null;
  }
}
