/**
 * A whole training step in one process, without coordinator, encoding or sockets: forward, backward,
 * and for each weight, as soon as its gradient is there, projection, optimizer, lift and the new
 * weight. It runs the same functions as a trainer in a run and is what `galore bench step` measures.
 */
import * as tf from '@tensorflow/tfjs-core';
import { fusedAdamw, fusedDirection, hasFusedAdamw } from '../galore/fused-adamw.ts';
import { stepSizes } from '../galore/optimizer/bias-correction.ts';
import { lift, project } from '../galore/projection/project-lift.ts';
import type { Moments } from '../galore/projection/transport.ts';
import { basisShape, payloadShape, sizeOf, type Slot } from '../galore/slot.ts';
import { applyUpdate, type Hyperparameters, type UpdatedSlot } from '../galore/step-rule.ts';
import { derive, randomNormal } from '../random.ts';
import { unmaskedRows, type Batch } from './model/batch.ts';
import type { LlamaModel } from './model/llama.ts';

/** The optimizer's numbers that stay the same from step to step. */
export type LocalHyperparameters = Omit<Hyperparameters, 'step'>;

/** A basis that stands in for one from a refresh: columns of length about 1, which is all a speed depends on. */
export function standInBasis(rows: number, columns: number, seed: number): Float32Array {
  const key = derive(seed, 'basis', rows, columns);
  const values = new Float32Array(rows * columns);
  for (let i = 0; i < values.length; i++) values[i] = randomNormal(key, i) / Math.sqrt(rows);
  return values;
}

/** Owns moments and bases of a model's slots; the model and its weights stay the caller's. */
export class LocalStep {
  readonly #model: LlamaModel;
  readonly #slots: ReadonlyMap<string, Slot>;
  readonly #hyper: LocalHyperparameters;
  readonly #moments = new Map<string, Moments>();
  readonly #bases = new Map<string, tf.Tensor2D>();
  #step = 0;

  constructor(model: LlamaModel, slots: readonly Slot[], hyper: LocalHyperparameters) {
    this.#model = model;
    this.#slots = new Map(slots.map((slot) => [slot.name, slot]));
    this.#hyper = hyper;
    for (const slot of slots) {
      const shape = [...payloadShape(slot)];
      this.#moments.set(slot.name, { m: tf.zeros(shape), v: tf.zeros(shape) });
      if (slot.policy === 'dense') continue;
      const [rows, columns] = basisShape(slot);
      this.#bases.set(slot.name, tf.tensor2d(standInBasis(rows, columns, slot.index), [rows, columns]));
    }
  }

  /** Bytes of moments and bases. */
  get stateBytes(): number {
    const tensors = [...this.#bases.values(), ...[...this.#moments.values()].flatMap(({ m, v }) => [m, v])];
    return tensors.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);
  }

  /** Runs one step; the mean loss of the batch before it. */
  run(batch: Batch): number {
    this.#step += 1;
    const hyper: Hyperparameters = { ...this.#hyper, step: this.#step };
    const tokens = unmaskedRows(batch.labels).length;
    const { lossSum } = this.#model.forwardBackward(batch, 1 / tokens, (name, gradient) => {
      this.#apply(name, gradient, hyper);
    });
    return lossSum / tokens;
  }

  dispose(): void {
    for (const { m, v } of this.#moments.values()) tf.dispose([m, v]);
    tf.dispose([...this.#bases.values()]);
    this.#moments.clear();
    this.#bases.clear();
  }

  #apply(name: string, gradient: tf.Tensor, hyper: Hyperparameters): void {
    const slot = this.#slots.get(name);
    const moments = this.#moments.get(name);
    if (slot === undefined || moments === undefined) throw new RangeError(`${name} has no slot`);
    const basis = this.#bases.get(name) ?? null;
    const isProjected = slot.policy !== 'dense' && basis !== null;
    const low = isProjected ? project(gradient as tf.Tensor2D, basis, slot.side) : gradient;
    const weights = this.#model.weights;
    const next = update(weights.get(name), slot, low, moments, basis, hyper);
    if (isProjected) low.dispose();
    tf.dispose([moments.m, moments.v]);
    this.#moments.set(name, { m: next.m, v: next.v });
    weights.set(name, next.weight);
  }
}

/** `applyUpdate`, in one pass where the engine can; weight and moments are not to be read afterwards. */
function update(
  weight: tf.Tensor,
  slot: Slot,
  low: tf.Tensor,
  moments: Moments,
  basis: tf.Tensor2D | null,
  hyper: Hyperparameters,
): UpdatedSlot {
  if (!hasFusedAdamw() || hyper.weightDecay !== 0)
    return applyUpdate(weight, slot, low, moments, basis, hyper);
  const { learningRate, betas, step, semantics } = hyper;
  const options = { betas, ...stepSizes(learningRate, betas, hyper.eps, step, semantics) };
  if (slot.policy === 'dense' || basis === null) return fusedAdamw(weight, low, moments, options);
  const { direction, m, v } = fusedDirection(low, moments, options, hyper.scale);
  const next = tf.tidy(() => tf.sub(weight, lift(direction as tf.Tensor2D, basis, slot.side)));
  direction.dispose();
  return { weight: next, m, v };
}
