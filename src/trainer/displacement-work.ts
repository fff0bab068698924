/**
 * One trainer's work in one step of a run with local steps: optimizer steps of its own, from the weights that all
 * trainers have, then how far each slot has moved. The model's weights are working copies only while
 * `contributeHeld` runs; after it they are again, bit for bit, what they were before.
 */
import * as tf from '@tensorflow/tfjs-core';
import { codecFor } from '../galore/codec/codec.ts';
import { COUNT_KIND, displacementSlot, innerState } from '../galore/displacement.ts';
import type { LocalState } from '../galore/feedback/feedback.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { ruleState } from '../galore/optimizer/rule-state.ts';
import { zerosOf } from '../galore/optimizer/zeros.ts';
import { tensorsOf, type Hyperparameters, type RuleState } from '../galore/optimizer/rule.ts';
import { ruleFor } from '../galore/optimizer/rules.ts';
import { payloadOf } from '../galore/projection/project-lift.ts';
import { momentsToSend, type AveragingOptions } from '../galore/moment-average.ts';
import { carriesSums, hasBasis, tensorLength, travels, type Slot } from '../galore/slot.ts';
import { liftOf, scaleOf } from '../galore/step-rule.ts';
import { derive } from '../random.ts';
import { encodePayload, type EncodedPayload } from './encode-payload.ts';
import { HeldGradients } from './held-gradients.ts';
import type { LocalStates } from './local-states.ts';
import type { Batch } from './model/batch.ts';
import type { Model } from './model/model.ts';
import type { Replica } from './replica.ts';
import { tokensOf, type StepOutput, type Work, type WorkTask } from './step.ts';
import { TensorSums } from './tensor-sums.ts';

export interface DisplacementTask extends WorkTask {
  /** The trainer's sequences by local step, each part in micro-batches. */
  readonly localBatches: readonly (readonly Batch[])[];
  /** Of the local steps; they do not decay weights. */
  readonly hyper: Omit<Hyperparameters, 'step' | 'learningRate'>;
  /** The learning rate when this share of the step, 0 to 1, is done. */
  readonly learningRateAt: (share: number) => number;
  /** How much they are held back to where they began; 0: not at all. */
  readonly proximalMu: number;
}

/** A slot on its way: D, and the state of the rule that moves it after `count` local steps. */
interface Moved {
  readonly displacement: tf.Tensor;
  readonly state: RuleState;
  readonly count: number;
}

export class DisplacementWork implements Work {
  readonly task: DisplacementTask;
  readonly tokens: number;
  isAnswered = false;
  #lossSum = 0;
  /** Local steps with at least one token. */
  readonly #steps: readonly (readonly Batch[])[];
  readonly #replica: Replica;
  readonly #locals: LocalStates;
  readonly #output: StepOutput;
  readonly #held: HeldGradients;
  readonly #sums = new TensorSums();
  readonly #moved = new Map<number, Moved>();
  /** Weights of the step's beginning, where the store has a working copy. */
  readonly #shared = new Map<string, tf.Tensor>();
  #model: Model | null = null;

  constructor(task: DisplacementTask, replica: Replica, locals: LocalStates, output: StepOutput) {
    this.task = task;
    this.#replica = replica;
    this.#locals = locals;
    this.#output = output;
    this.#held = new HeldGradients(task, replica);
    this.#steps = task.localBatches.filter((batches) => tokensOf(batches) > 0);
    this.tokens = tokensOf(this.#steps.flat());
  }

  /** Over all local steps, each with its own weights. */
  get lossSum(): number {
    return this.#lossSum;
  }

  /** The gradients of the first local step. */
  computeGradients(model: Model): void {
    this.#locals.begin(this.task.step);
    const [first] = this.#steps;
    if (first === undefined) return;
    this.#model = model;
    this.#backward(model, first, (slot, gradient) => {
      if (!this.#held.hold(slot, gradient)) this.#sums.add(slot.index, this.#payload(slot, gradient));
    });
  }

  sendSketches(
    round: number,
    slots: readonly number[],
    seed: number,
    factors: ReadonlyMap<number, Float32Array>,
  ): void {
    for (const [slot, values] of this.#held.sketches(round, slots, seed, factors)) {
      this.#output.sketch(slot, round, values);
    }
  }

  /** Takes the local steps. During the last one each slot is sent as soon as its gradient is complete. */
  contributeHeld(): void {
    if (this.#model === null) return;
    this.#held.release((slot, gradient) => this.#sums.add(slot.index, this.#payload(slot, gradient)));
    try {
      for (const index of this.#sums.indices()) this.#move(this.#replica.slots[index]!, 0);
      for (let position = 1; position < this.#steps.length; position++) {
        this.#backward(this.#model, this.#steps[position]!, (slot, gradient, isLast) => {
          this.#sums.add(slot.index, this.#payload(slot, gradient));
          if (isLast) this.#move(slot, position);
        });
      }
    } finally {
      this.#restore();
    }
  }

  dispose(): void {
    this.#restore();
    this.#held.dispose();
    this.#sums.dispose();
    for (const moved of this.#moved.values()) disposeOf(moved);
    this.#moved.clear();
    this.#model = null;
  }

  /** The gradients of the mean loss of one local step, micro-batch by micro-batch. */
  #backward(
    model: Model,
    batches: readonly Batch[],
    take: (slot: Slot, gradient: tf.Tensor, isLast: boolean) => void,
  ): void {
    const tokens = tokensOf(batches);
    const slotsByName = new Map(this.#replica.slots.map((slot) => [slot.name, slot]));
    batches.forEach((batch, position) => {
      const { lossSum } = model.forwardBackward(
        batch,
        1 / tokens,
        (name, gradient) => {
          const slot = slotsByName.get(name);
          const isLast = position === batches.length - 1;
          if (slot !== undefined && travels(slot)) take(slot, gradient, isLast);
        },
        this.#replica.wants,
      );
      this.#lossSum += lossSum;
    });
  }

  /** One optimizer step of a slot with the gradient in the sums: its working weight moves, or the slot is sent. */
  #move(slot: Slot, position: number): void {
    const { hyper, learningRateAt } = this.task;
    const inner = displacementSlot(slot, scaleOf(slot, hyper));
    const old = this.#moved.get(slot.index) ?? this.#begin(slot);
    this.#moved.delete(slot.index);
    const payload = this.#withProximalTerm(this.#sums.take(slot.index), old.displacement);
    const count = old.count + 1;
    const { weight: displacement, state } = ruleFor(inner.rule).step({
      ...{ slot: inner, weight: old.displacement, payload, state: old.state, basis: null },
      hyper: { ...hyper, step: count, learningRate: learningRateAt(position / this.#steps.length) },
    });
    payload.dispose();
    disposeOf(old);
    const moved = { displacement: tf.keep(displacement), state, count };
    tensorsOf(state).forEach((tensor) => tf.keep(tensor));
    if (position === this.#steps.length - 1) return this.#send(slot, inner, moved);
    this.#moved.set(slot.index, moved);
    this.#showWorkingWeight(slot, displacement);
  }

  /**
   * FedProx (arXiv 1812.06127, eq. 2): the gradient of (mu / 2) |w - w0|^2 is mu (w - w0), in the coordinates of an
   * orthonormal basis mu D. Uses `payload` up.
   */
  #withProximalTerm(payload: tf.Tensor, displacement: tf.Tensor): tf.Tensor {
    const { proximalMu } = this.task;
    if (proximalMu === 0) return payload;
    const sum = tf.tidy(() => tf.add(payload, tf.mul(displacement, proximalMu)));
    payload.dispose();
    return sum;
  }

  /** Where the slot was at the end of the last step, in the optimizer's state, and at no displacement. */
  #begin(slot: Slot): Moved {
    const inner = displacementSlot(slot);
    const kinds = innerState(slot).map(({ kind }) => kind);
    const displacement = tf.zeros([...inner.shape]);
    if (kinds.length === 0) return { displacement, state: zerosOf(ruleState(inner)), count: 0 };
    const kept = this.#locals.get(slot);
    const count = (kept[COUNT_KIND] as tf.Tensor).dataSync()[0]!;
    const state = Object.fromEntries(
      kinds.filter((kind) => kind !== COUNT_KIND).map((kind) => [kind, clone(kept[kind]!)]),
    );
    return { displacement, state, count };
  }

  #showWorkingWeight(slot: Slot, displacement: tf.Tensor): void {
    const { weights } = this.#replica;
    const shared = this.#shared.get(slot.name) ?? tf.keep(tf.clone(weights.get(slot.name)));
    this.#shared.set(slot.name, shared);
    weights.set(
      slot.name,
      tf.tidy(() => tf.add(shared, liftOf(slot, displacement, this.#basis(slot)))),
    );
  }

  /** Sends how far the slot has moved, and proposes what is to be kept; uses `moved` up. */
  #send(slot: Slot, inner: Slot, { displacement, state, count }: Moved): void {
    const isKept = innerState(slot).length > 0;
    const kept = isKept ? { ...state, [COUNT_KIND]: tf.tensor1d([count]) } : {};
    const moments = momentsToSend(
      slot,
      state,
      { ...this.task, count, share: this.#shareOf(slot) },
      this.#averaging,
    );
    const residual = this.#sendDisplacement(slot, inner, displacement, moments);
    tf.dispose(moments);
    displacement.dispose();
    if (!isKept) tf.dispose(tensorsOf(state));
    if (hasLocalState(slot)) this.#locals.propose(slot, { ...kept, ...residual });
  }

  /** Sends it, and the moments behind it. What feedback keeps of it. */
  #sendDisplacement(
    slot: Slot,
    inner: Slot,
    displacement: tf.Tensor,
    moments: readonly tf.Tensor[],
  ): LocalState {
    const feedback = feedbackOf(slot);
    if (feedback === null) {
      const { codec, bytes } = this.#encoded(slot, displacement, moments);
      this.#output.contribution(slot, codec, bytes);
      return {};
    }
    const { seed, trainerId, step } = this.task;
    const context = {
      ...{ slot: inner, step, basis: null, state: {}, share: this.#shareOf(slot) },
      key: derive(seed, 'feedback', trainerId, step, slot.index, 0),
    };
    const open = feedback.add(context, this.#locals.get(slot), displacement, true);
    const payload = feedback.payload(context, open);
    const { codec, bytes } = this.#encoded(slot, payload, moments);
    const values = codecFor(codec).decode(bytes, tensorLength(slot, step));
    const sent = tf.tensor(values.slice(0, payload.size), [...inner.shape]);
    const residual = feedback.settle(context, open, sent);
    tf.dispose([payload, sent, ...tensorsOf(open)]);
    this.#output.contribution(slot, codec, bytes);
    return residual;
  }

  /** Of a slot whose contributions are parts of a sum the trainer's part of the step. */
  #shareOf(slot: Slot): number {
    return carriesSums(slot) ? this.tokens / this.task.stepTokens : 1;
  }

  get #averaging(): AveragingOptions {
    const { betas, outer } = this.task.hyper;
    return { betas, localSteps: outer.localSteps };
  }

  #encoded(slot: Slot, payload: tf.Tensor, moments: readonly tf.Tensor[]): EncodedPayload {
    const allocate = this.#output.allocate?.bind(this.#output);
    if (moments.length === 0) return encodePayload(this.task, slot, payload, allocate);
    const whole = tf.tidy(() => tf.concat1d([payload, ...moments].map((tensor) => tf.reshape(tensor, [-1]))));
    const encoded = encodePayload(this.task, slot, whole, allocate);
    whole.dispose();
    return encoded;
  }

  #payload(slot: Slot, gradient: tf.Tensor): tf.Tensor {
    return payloadOf(slot, gradient, this.#basis(slot));
  }

  #basis(slot: Slot): tf.Tensor2D | null {
    return hasBasis(slot) ? this.#replica.basis(slot) : null;
  }

  /** Puts the weights back that all trainers have. */
  #restore(): void {
    for (const [name, weight] of this.#shared) this.#replica.weights.set(name, weight);
    this.#shared.clear();
  }
}

function disposeOf({ displacement, state }: Moved): void {
  tf.dispose([displacement, ...tensorsOf(state)]);
}

function clone(value: tf.Tensor | Uint8Array): tf.Tensor | Uint8Array {
  return value instanceof tf.Tensor ? tf.clone(value) : value.slice();
}
