/**
 * A whole training step in one process, without coordinator, encoding or sockets: forward, backward,
 * and for each weight, as soon as its gradient is there, projection, optimizer, lift and the new
 * weight. It runs the same functions as a trainer in a run and is what `galore bench step` and
 * `galore bench memory` measure.
 */
import * as tf from '@tensorflow/tfjs-core';
import { tensorsOf, type Hyperparameters, type RuleState } from '../galore/optimizer/rule.ts';
import { firstState } from '../galore/optimizer/rules.ts';
import { payloadOf } from '../galore/projection/project-lift.ts';
import { basisShape, hasBasis, type Slot } from '../galore/slot.ts';
import { derive, randomNormal } from '../random.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { advanceSlot } from './advance-slot.ts';
import { targetsOf, type Batch } from './model/batch.ts';
import type { ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import { slotGradients } from './parameters.ts';
import { LocalStates } from './local-states.ts';
import type { LlamaModel } from './model/llama.ts';

/** The optimizer's numbers that stay the same from step to step. */
export type LocalHyperparameters = Omit<Hyperparameters, 'step'>;

/**
 * When a gradient is used: as soon as backward hands it out, or after backward, when all are there; then all
 * are kept until the last update, as PyTorch's optimizers do.
 */
export type UpdateTime = 'per-layer' | 'after-backward';

/** A basis that stands in for one from a refresh: columns of length about 1, which is all a speed depends on. */
export function standInBasis(rows: number, columns: number, seed: number): Float32Array {
  const key = derive(seed, 'basis', rows, columns);
  const values = new Float32Array(rows * columns);
  for (let i = 0; i < values.length; i++) values[i] = randomNormal(key, i) / Math.sqrt(rows);
  return values;
}

/**
 * Owns optimizer state and bases of a model's slots; the model and its weights stay the caller's. Weights that
 * slots have as int8 are to be in the store as that. With a table of parameters the slots are the parts of the model's
 * weights, and the store is to make these (parameters.ts).
 */
export class LocalStep {
  readonly #model: LlamaModel;
  readonly #slots: ReadonlyMap<string, Slot>;
  readonly #hyper: LocalHyperparameters;
  readonly #updates: UpdateTime;
  readonly #parameters: ParameterTable | null;
  readonly #states = new Map<string, RuleState>();
  readonly #bases = new Map<string, tf.Tensor2D>();
  readonly #locals = new LocalStates();
  #step = 0;

  constructor(
    model: LlamaModel,
    slots: readonly Slot[],
    hyper: LocalHyperparameters,
    updates: UpdateTime = 'per-layer',
    parameters: ParameterTable | null = null,
  ) {
    this.#model = model;
    this.#parameters = parameters;
    this.#slots = new Map(slots.map((slot) => [slot.name, slot]));
    this.#hyper = hyper;
    this.#updates = updates;
    for (const slot of slots) {
      this.#states.set(slot.name, firstState(slot, hyper.seed));
      if (!hasBasis(slot)) continue;
      const [rows, columns] = basisShape(slot);
      this.#bases.set(slot.name, tf.tensor2d(standInBasis(rows, columns, slot.index), [rows, columns]));
    }
  }

  /** Bytes of the optimizer's state, errors that are kept for later included, and of the bases of some slots, as allocated. */
  bytesOf(slots: readonly Slot[]): { readonly stateBytes: number; readonly basisBytes: number } {
    return {
      stateBytes: bytesOf(slots.flatMap((slot) => this.#stateOf(slot))),
      basisBytes: bytesOf(slots.flatMap(({ name }) => this.#bases.get(name) ?? [])),
    };
  }

  /** Of them what is in plain arrays. */
  get arrayBytes(): number {
    const values = [...this.#slots.values()].flatMap((slot) => this.#stateOf(slot));
    return bytesOf(values.filter((value) => value instanceof Uint8Array));
  }

  /** Runs one step; the mean loss of the batch before it. */
  run(batch: Batch): number {
    this.#step += 1;
    const hyper: Hyperparameters = { ...this.#hyper, step: this.#step };
    this.#locals.begin(this.#step);
    const tokens = targetsOf(batch);
    const held = new Map<string, tf.Tensor>();
    const slots = [...this.#slots.values()];
    const { onGradient, wants } = slotGradients(
      this.#parameters,
      slots,
      this.#model.weights,
      ({ name }, gradient) => {
        tf.keep(gradient);
        if (this.#updates === 'per-layer') this.#apply(name, gradient, hyper);
        else held.set(name, gradient);
      },
    );
    const { lossSum } = this.#model.forwardBackward(batch, 1 / tokens, onGradient, wants);
    for (const [name, gradient] of held) this.#apply(name, tf.clone(gradient), hyper);
    this.#locals.decide(this.#step, true);
    tf.dispose([...held.values()]);
    return lossSum / tokens;
  }

  dispose(): void {
    tf.dispose([...this.#states.values()].flatMap(tensorsOf));
    tf.dispose([...this.#bases.values()]);
    this.#states.clear();
    this.#bases.clear();
    this.#locals.dispose();
  }

  #stateOf(slot: Slot): (tf.Tensor | Uint8Array)[] {
    const kept = feedbackOf(slot) === null ? {} : this.#locals.get(slot);
    return [...Object.values(this.#states.get(slot.name) ?? {}), ...Object.values(kept)];
  }

  /** Uses the gradient up: of a projected slot nothing is left of it when the update is lifted. */
  #apply(name: string, gradient: tf.Tensor, hyper: Hyperparameters): void {
    const slot = this.#slots.get(name);
    const state = this.#states.get(name);
    if (slot === undefined || state === undefined) throw new RangeError(`${name} has no slot`);
    const basis = this.#bases.get(name) ?? null;
    const payload = this.#payload(slot, gradient, state, basis);
    gradient.dispose();
    const next = advanceSlot(this.#model.weights, slot, payload, { state, basis }, hyper, 0);
    this.#states.set(name, next.state);
    if (next.basis !== null) this.#bases.set(name, next.basis);
  }

  #payload(slot: Slot, gradient: tf.Tensor, state: RuleState, basis: tf.Tensor2D | null): tf.Tensor {
    const rule = feedbackOf(slot);
    if (rule === null) return payloadOf(slot, gradient, basis);
    const key = derive(this.#hyper.seed, 'feedback', this.#step, slot.index);
    const context = { slot, step: this.#step, basis, state, share: 1, key };
    const open = rule.add(context, this.#locals.get(slot), gradient, true);
    this.#locals.propose(slot, open);
    const payload = rule.payload(context, open);
    this.#locals.propose(slot, rule.settle(context, open, payload));
    return payload;
  }
}

function bytesOf(values: readonly (tf.Tensor | Uint8Array)[]): number {
  return values.reduce(
    (sum, value) => sum + (value instanceof Uint8Array ? value.byteLength : 4 * value.size),
    0,
  );
}
