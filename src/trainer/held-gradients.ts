/**
 * The whole gradients of the slots under refresh, summed over micro-batches and held until their new bases are
 * there; their sketches are made of them, and of what the trainer has kept.
 */
import * as tf from '@tensorflow/tfjs-core';
import { numbersOf } from '../galore/product.ts';
import { sketch } from '../galore/projection/sketch-gradient.ts';
import {
  firstRound,
  heldOut,
  joinColumns,
  omega,
  sketchPlan,
  warmStart,
  type RefreshPlan,
  type SketchPlan,
} from '../galore/projection/sketch.ts';
import { hasBasis, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import type { Replica } from './replica.ts';
import { TensorSums } from './tensor-sums.ts';

/** What sketches are made with. */
export interface SketchTask {
  readonly step: number;
  readonly refreshSlots: readonly number[];
  readonly refresh: RefreshPlan;
  /** The run's slots at their configured ranks, which sketches are made for. */
  readonly slots: readonly Slot[];
}

export class HeldGradients {
  readonly #task: SketchTask;
  readonly #replica: Replica;
  readonly #sums = new TensorSums();
  readonly #sketched: (slot: ProjectedSlot, gradient: tf.Tensor2D) => tf.Tensor2D;

  /** @param sketched what the sketches of a slot are made of, if not of its gradient alone: that or a new tensor */
  constructor(
    task: SketchTask,
    replica: Replica,
    sketched: (slot: ProjectedSlot, gradient: tf.Tensor2D) => tf.Tensor2D = (_slot, gradient) => gradient,
  ) {
    this.#task = task;
    this.#replica = replica;
    this.#sketched = sketched;
  }

  /** Adds a gradient, which stays the caller's, if its slot is under refresh; false: it is not. */
  hold(slot: Slot, gradient: tf.Tensor): boolean {
    if (!this.#task.refreshSlots.includes(slot.index)) return false;
    this.#sums.add(slot.index, numbersOf(gradient));
    return true;
  }

  /** Sketches of one refresh round, f32; `factors` are those of the round before, by slot. */
  *sketches(
    round: number,
    slots: readonly number[],
    seed: number,
    factors: ReadonlyMap<number, Float32Array>,
  ): Generator<readonly [ProjectedSlot, Float32Array]> {
    for (const index of slots) {
      const gradient = this.#sums.get(index) as tf.Tensor2D | undefined;
      const slot = this.#task.slots[index];
      if (gradient === undefined || slot === undefined || !hasBasis(slot)) continue;
      const plan = sketchPlan(slot, round, this.#task.refresh);
      const values = this.#rightHandSide(slot, round, plan, seed, factors);
      const result = tf.tidy(() => {
        const rows = plan.factorShape?.[0] ?? 0;
        const factor = values === null ? null : tf.tensor2d(values, [rows, values.length / rows]);
        return sketch(this.#sketched(slot, gradient), factor, plan);
      });
      yield [slot, result.dataSync<'float32'>() as Float32Array];
      result.dispose();
    }
  }

  /** F of a round with its held-out columns; null: the gradient itself is the sketch. */
  #rightHandSide(
    slot: ProjectedSlot,
    round: number,
    plan: SketchPlan,
    seed: number,
    factors: ReadonlyMap<number, Float32Array>,
  ): Float32Array | null {
    if (plan.factorShape === null) return null;
    const { step, refresh } = this.#task;
    const [rows, columns] = plan.factorShape;
    let factor = factors.get(slot.index);
    if (plan.isOmega) factor = omega(seed, step, slot, rows, columns);
    else if (round === firstRound(refresh, step > 1)) factor = this.#warmStart(slot, seed, rows, columns);
    if (factor === undefined) throw new Error(`the factor of ${slot.name} for round ${round} has not come`);
    if (plan.heldOutColumns === 0) return factor;
    return joinColumns(factor, heldOut(seed, step, slot, rows, plan.heldOutColumns), rows);
  }

  /** The old basis (of a two-sided slot U, which lies first) and fresh columns. */
  #warmStart(slot: ProjectedSlot, seed: number, rows: number, columns: number): Float32Array {
    const basis = this.#replica.basis(slot);
    const values = basis.dataSync<'float32'>() as Float32Array;
    const old = values.subarray(0, rows * (basis.shape[1] ?? 0));
    return warmStart(seed, this.#task.step, slot, old, rows, columns);
  }

  /** Hands the gradients out, with the slots as they are now; each is disposed after `use`. */
  release(use: (slot: Slot, gradient: tf.Tensor) => void): void {
    for (const index of this.#sums.indices()) {
      const gradient = this.#sums.take(index);
      use(this.#replica.slots[index]!, gradient);
      gradient.dispose();
    }
  }

  dispose(): void {
    this.#sums.dispose();
  }
}
