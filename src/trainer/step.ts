/**
 * One trainer's work in one step: gradients of its sequences, accumulated over micro-batches in the
 * subspace, sketches while a refresh is on, then the contribution. It says what to send through
 * `StepOutput` and knows nothing of sockets. With local steps the work is another: displacement-work.ts.
 */
import * as tf from '@tensorflow/tfjs-core';
import { codecFor, type CodecName } from '../galore/codec/codec.ts';
import type { FeedbackContext, FeedbackRule } from '../galore/feedback/feedback.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { tensorsOf } from '../galore/optimizer/rule.ts';
import { payloadOf } from '../galore/projection/project-lift.ts';
import { touchedRows } from '../galore/rows.ts';
import { hasBasis, sizeOf, travels, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import { derive } from '../random.ts';
import { encodePayload, encodeRowsOf, type EncodedPayload, type EncodingTask } from './encode-payload.ts';
import { HeldGradients, type SketchTask } from './held-gradients.ts';
import { targetsOf, type Batch } from './model/batch.ts';
import type { Model } from './model/model.ts';
import type { LocalStates } from './local-states.ts';
import type { Replica } from './replica.ts';
import { TensorSums } from './tensor-sums.ts';

/** Where the results of a step go. */
export interface StepOutput {
  /** Where a contribution may be encoded; new memory without it. */
  allocate?(byteLength: number): Uint8Array;
  /** The encoded contribution of one slot. */
  contribution(slot: Slot, codec: CodecName, bytes: Uint8Array): void;
  /** The sketch of one slot, f32. */
  sketch(slot: ProjectedSlot, round: number, values: Float32Array): void;
}

/** A trainer's work in a step, one way or the other. */
export interface Work {
  readonly task: WorkTask;
  /** Unmasked tokens of all its sequences. */
  readonly tokens: number;
  /** Loss summed over the unmasked tokens, in nats; known when the contribution is made. */
  readonly lossSum: number;
  /** Set once the contribution is sent. */
  isAnswered: boolean;
  /** The gradients at the weights that all trainers have: what a refresh needs. */
  computeGradients(model: Model): void;
  /** Sends the sketches of one refresh round; `factors` are those of the round before, by slot. */
  sendSketches(
    round: number,
    slots: readonly number[],
    seed: number,
    factors: ReadonlyMap<number, Float32Array>,
  ): void;
  /** Sends what was held back for the new bases of a refresh, if there was one. */
  contributeHeld(): void;
  /** Forgets everything that was not sent. */
  dispose(): void;
}

/** What to compute. */
export interface WorkTask extends EncodingTask, SketchTask {
  /** Tokens of the whole step if none is masked. A slot that carries sums adds its part times the trainer's share of them. */
  readonly stepTokens: number;
}

export interface StepTask extends WorkTask {
  /** The trainer's sequences in micro-batches. */
  readonly batches: readonly Batch[];
  /** Power slots send what they have kept before the step's gradient is added: one step stale, and under way while it is computed. */
  readonly isDelayed?: boolean;
}

/** Unmasked tokens of micro-batches. */
export function tokensOf(batches: readonly Batch[]): number {
  return batches.reduce((sum, batch) => sum + targetsOf(batch), 0);
}

export class StepWork implements Work {
  readonly task: StepTask;
  readonly tokens: number;
  isAnswered = false;
  #lossSum = 0;
  readonly #replica: Replica;
  readonly #locals: LocalStates;
  readonly #output: StepOutput;
  readonly #held: HeldGradients;
  readonly #sums = new TensorSums();
  /** What was sent of a slot before its gradient was known, as its receivers decode it. */
  readonly #sentBefore = new TensorSums();

  constructor(task: StepTask, replica: Replica, locals: LocalStates, output: StepOutput) {
    this.task = task;
    this.#replica = replica;
    this.#locals = locals;
    this.#output = output;
    this.#held = new HeldGradients(task, replica, (slot, gradient) => this.#sketched(slot, gradient));
    this.tokens = tokensOf(task.batches);
  }

  get lossSum(): number {
    return this.#lossSum;
  }

  /**
   * Runs forward and backward over every micro-batch. During the last one each slot that is not under
   * refresh is sent as soon as its gradient is complete.
   */
  computeGradients(model: Model): void {
    this.#locals.begin(this.task.step);
    if (this.tokens === 0) return;
    if (this.task.isDelayed === true) this.#sendKept();
    const slotsByName = new Map(this.#replica.slots.map((slot) => [slot.name, slot]));
    this.task.batches.forEach((batch, position) => {
      const { lossSum } = model.forwardBackward(
        batch,
        1 / this.tokens,
        (name, gradient) => {
          const slot = slotsByName.get(name);
          if (slot !== undefined) this.#takeGradient(slot, gradient, position);
        },
        this.#replica.wants,
      );
      this.#lossSum += lossSum;
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

  /** Projects the held gradients with their new bases and sends them. */
  contributeHeld(): void {
    this.#held.release((slot, gradient) => {
      const feedback = feedbackOf(slot);
      if (feedback === null) this.#send(slot, this.#payload(slot, gradient));
      else this.#takeWithFeedback(feedback, slot, gradient, this.task.batches.length - 1);
    });
  }

  dispose(): void {
    this.#held.dispose();
    this.#sums.dispose();
    this.#sentBefore.dispose();
  }

  /** Sends the payloads of all power slots as they are without the gradients of this step. */
  #sendKept(): void {
    for (const slot of this.#replica.slots.toReversed()) {
      if (slot.policy !== 'power') continue;
      const rule = feedbackOf(slot)!;
      const context = { ...this.#contextOf(slot, 0), share: 0 };
      const kept = this.#locals.get(slot);
      // A gradient of which nothing is added: anything finite of its shape.
      const open = rule.add(context, kept, this.#replica.weights.get(slot.name), true);
      const sent = this.#sendPayload(slot, rule.payload(context, open));
      this.#sentBefore.add(slot.index, sent);
      tf.dispose(tensorsOf(open).filter((tensor) => !tensorsOf(kept).includes(tensor)));
    }
  }

  #takeGradient(slot: Slot, gradient: tf.Tensor, position: number): void {
    if (!travels(slot) || this.#held.hold(slot, gradient)) return;
    const feedback = feedbackOf(slot);
    if (feedback !== null) return this.#takeWithFeedback(feedback, slot, gradient, position);
    this.#sums.add(slot.index, this.#payload(slot, gradient));
    if (this.#isLast(position)) this.#send(slot, this.#sums.take(slot.index));
  }

  #takeWithFeedback(rule: FeedbackRule, slot: Slot, gradient: tf.Tensor, position: number): void {
    const context = this.#contextOf(slot, position);
    const isLast = this.#isLast(position);
    const next = rule.add(context, this.#locals.get(slot), gradient, isLast);
    this.#locals.propose(slot, next);
    if (!isLast) return;
    const wasSent = this.#sentBefore.get(slot.index) !== undefined;
    const sent = wasSent
      ? this.#sentBefore.take(slot.index)
      : this.#sendPayload(slot, rule.payload(context, next));
    this.#locals.propose(slot, rule.settle(context, next, sent));
    sent.dispose();
  }

  /** What a refresh makes its sketches of: the gradient, or all that its slot keeps with it. */
  #sketched(slot: ProjectedSlot, gradient: tf.Tensor2D): tf.Tensor2D {
    const rule = feedbackOf(slot);
    if (rule?.accumulated === undefined) return gradient;
    const share = this.tokens / this.task.stepTokens;
    return rule.accumulated({ slot, share }, this.#locals.get(slot), gradient) as tf.Tensor2D;
  }

  #contextOf(slot: Slot, position: number): FeedbackContext {
    const { seed, trainerId, step, stepTokens } = this.task;
    return {
      ...{ slot, step, basis: this.#projection(slot) },
      state: this.#replica.state(slot),
      share: this.tokens / stepTokens,
      key: derive(seed, 'feedback', trainerId, step, slot.index, position),
    };
  }

  /** Encodes and sends a payload, which it disposes; returns what its receivers decode. */
  #sendPayload(slot: Slot, payload: tf.Tensor): tf.Tensor {
    const { shape } = payload;
    const { codec, bytes } = this.#encoded(slot, payload);
    const sent = tf.tensor(codecFor(codec).decode(bytes, sizeOf(shape)), shape);
    this.#output.contribution(slot, codec, bytes);
    return sent;
  }

  #isLast(position: number): boolean {
    return position === this.task.batches.length - 1;
  }

  #payload(slot: Slot, gradient: tf.Tensor): tf.Tensor {
    return payloadOf(slot, gradient, this.#projection(slot));
  }

  /** The basis that the slot's gradient is projected with; null: none is. */
  #projection(slot: Slot): tf.Tensor2D | null {
    return hasBasis(slot) && slot.policy !== 'dense' ? this.#replica.basis(slot) : null;
  }

  /** Encodes and sends; disposes `low`. */
  #send(slot: Slot, low: tf.Tensor): void {
    const { codec, bytes } = this.#encoded(slot, low);
    this.#output.contribution(slot, codec, bytes);
  }

  /** Disposes `low`. */
  #encoded(slot: Slot, low: tf.Tensor): EncodedPayload {
    const allocate = this.#output.allocate?.bind(this.#output);
    const encoded =
      slot.policy === 'row-sparse'
        ? encodeRowsOf(this.task, slot, low, touchedRows(this.task.batches.map(({ ids }) => ids)), allocate)
        : encodePayload(this.task, slot, low, allocate);
    low.dispose();
    return encoded;
  }
}
