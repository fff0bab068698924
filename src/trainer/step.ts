/**
 * One trainer's work in one step: gradients of its sequences, accumulated over micro-batches in the
 * subspace, sketches while a refresh is on, then the contribution. It says what to send through
 * `StepOutput` and knows nothing of sockets.
 */
import * as tf from '@tensorflow/tfjs-core';
import { codecFor, codecOfPayload, type CodecName } from '../galore/codec/codec.ts';
import type { FeedbackRule } from '../galore/feedback/feedback.ts';
import { feedbackOf } from '../galore/feedback/rules.ts';
import { numbersOf } from '../galore/product.ts';
import { payloadOf } from '../galore/projection/project-lift.ts';
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
import { hasBasis, sizeOf, travels, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import type { SlotCodecs } from '../protocol/slot-sizes.ts';
import { derive } from '../random.ts';
import { unmaskedRows, type Batch } from './model/batch.ts';
import type { LlamaModel } from './model/llama.ts';
import type { LocalStates } from './local-states.ts';
import type { Replica } from './replica.ts';

/** Where the results of a step go. */
export interface StepOutput {
  /** Where a contribution may be encoded; new memory without it. */
  allocate?(byteLength: number): Uint8Array;
  /** The encoded contribution of one slot. */
  contribution(slot: Slot, codec: CodecName, bytes: Uint8Array): void;
  /** The sketch of one slot, f32. */
  sketch(slot: ProjectedSlot, round: number, values: Float32Array): void;
}

/** What to compute. */
export interface StepTask {
  readonly step: number;
  readonly seed: number;
  readonly trainerId: string;
  readonly refreshSlots: readonly number[];
  /** Slots whose payload is sent as f32, so that no feedback of it is left. */
  readonly flushSlots: readonly number[];
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
  /** Tokens of the whole step if none is masked. A slot that carries sums adds its gradient times the trainer's share of them. */
  readonly stepTokens: number;
  readonly refresh: RefreshPlan;
  /** The run's slots at their configured ranks, which sketches are made for. */
  readonly slots: readonly Slot[];
  /** The trainer's sequences in micro-batches. */
  readonly batches: readonly Batch[];
}

export class StepWork {
  readonly task: StepTask;
  /** Unmasked tokens of all micro-batches. */
  readonly tokens: number;
  /** Set once the contribution is sent. */
  isAnswered = false;
  #lossSum = 0;
  readonly #replica: Replica;
  readonly #locals: LocalStates;
  readonly #output: StepOutput;
  /** Full gradients of the slots under refresh, until their new bases arrive. */
  readonly #held = new Map<number, tf.Tensor2D>();
  readonly #sums = new Map<number, tf.Tensor>();

  constructor(task: StepTask, replica: Replica, locals: LocalStates, output: StepOutput) {
    this.task = task;
    this.#replica = replica;
    this.#locals = locals;
    this.#output = output;
    this.tokens = task.batches.reduce((sum, batch) => sum + unmaskedRows(batch.labels).length, 0);
  }

  /** Loss summed over the unmasked tokens, in nats; known after `computeGradients`. */
  get lossSum(): number {
    return this.#lossSum;
  }

  /**
   * Runs forward and backward over every micro-batch. During the last one each slot that is not under
   * refresh is sent as soon as its gradient is complete.
   */
  computeGradients(model: LlamaModel): void {
    this.#locals.begin(this.task.step);
    if (this.tokens === 0) return;
    const slotsByName = new Map(this.#replica.slots.map((slot) => [slot.name, slot]));
    this.task.batches.forEach((batch, position) => {
      const { lossSum } = model.forwardBackward(batch, 1 / this.tokens, (name, gradient) => {
        const slot = slotsByName.get(name);
        if (slot !== undefined) this.#takeGradient(slot, gradient, position);
      });
      this.#lossSum += lossSum;
    });
  }

  /** Sends the sketches of one refresh round; `factors` are those of the round before, by slot. */
  sendSketches(
    round: number,
    slots: readonly number[],
    seed: number,
    factors: ReadonlyMap<number, Float32Array>,
  ): void {
    for (const index of slots) {
      const gradient = this.#held.get(index);
      const slot = this.task.slots[index];
      if (gradient === undefined || slot === undefined || !hasBasis(slot)) continue;
      const plan = sketchPlan(slot, round, this.task.refresh);
      const values = this.#rightHandSide(slot, round, plan, seed, factors);
      const result = tf.tidy(() => {
        const rows = plan.factorShape?.[0] ?? 0;
        const factor = values === null ? null : tf.tensor2d(values, [rows, values.length / rows]);
        return sketch(gradient, factor, plan);
      });
      this.#output.sketch(slot, round, result.dataSync<'float32'>() as Float32Array);
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
    const { step, refresh } = this.task;
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
    return warmStart(seed, this.task.step, slot, old, rows, columns);
  }

  /** Projects the held gradients with their new bases and sends them. */
  contributeHeld(): void {
    for (const [index, gradient] of this.#held) {
      const slot = this.#replica.slots[index]!;
      const feedback = feedbackOf(slot);
      if (feedback === null) this.#send(slot, this.#payload(slot, gradient));
      else this.#takeWithFeedback(feedback, slot, gradient, this.task.batches.length - 1);
      gradient.dispose();
    }
    this.#held.clear();
  }

  /** Forgets everything that was not sent. */
  dispose(): void {
    tf.dispose([...this.#held.values(), ...this.#sums.values()]);
    this.#held.clear();
    this.#sums.clear();
  }

  #takeGradient(slot: Slot, gradient: tf.Tensor, position: number): void {
    if (!travels(slot)) return;
    if (this.task.refreshSlots.includes(slot.index)) {
      const numbers = numbersOf(gradient as tf.Tensor2D);
      this.#held.set(slot.index, accumulate(this.#held.get(slot.index), numbers) as tf.Tensor2D);
      numbers.dispose();
      return;
    }
    const feedback = feedbackOf(slot);
    if (feedback !== null) return this.#takeWithFeedback(feedback, slot, gradient, position);
    const low = this.#payload(slot, gradient);
    this.#sums.set(slot.index, accumulate(this.#sums.get(slot.index), low));
    low.dispose();
    if (this.#isLast(position)) {
      const sum = this.#sums.get(slot.index)!;
      this.#sums.delete(slot.index);
      this.#send(slot, sum);
    }
  }

  #takeWithFeedback(rule: FeedbackRule, slot: Slot, gradient: tf.Tensor, position: number): void {
    const { seed, trainerId, step, stepTokens } = this.task;
    const context = {
      ...{ slot, step, basis: this.#projection(slot) },
      state: this.#replica.state(slot),
      share: this.tokens / stepTokens,
      key: derive(seed, 'feedback', trainerId, step, slot.index, position),
    };
    const isLast = this.#isLast(position);
    const next = rule.add(context, this.#locals.get(slot), gradient, isLast);
    this.#locals.propose(slot, next);
    if (!isLast) return;
    const payload = rule.payload(context, next);
    const shape = payload.shape;
    const { codec, bytes } = this.#encoded(slot, payload);
    const sent = tf.tensor(codecFor(codec).decode(bytes, sizeOf(shape)), shape);
    this.#locals.propose(slot, rule.settle(context, next, sent));
    sent.dispose();
    this.#output.contribution(slot, codec, bytes);
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
  #encoded(slot: Slot, low: tf.Tensor): { readonly codec: CodecName; readonly bytes: Uint8Array } {
    const { seed, trainerId, step, codecs, flushSlots } = this.task;
    const values = low.dataSync<'float32'>() as Float32Array;
    low.dispose();
    const isFlushed = flushSlots.includes(slot.index);
    const codec = isFlushed ? 'f32' : codecOfPayload(values.length, codecs[slot.index]!.contribution);
    const key = derive(seed, 'contribution', trainerId, step, slot.index);
    const tensorCodec = codecFor(codec);
    const into = this.#output.allocate?.(tensorCodec.encodedBytes(values.length));
    return { codec, bytes: tensorCodec.encode(values, key, into) };
  }
}

/** Sum of two tensors that outlives the surrounding tidy; the old sum is disposed. */
function accumulate(sum: tf.Tensor | undefined, term: tf.Tensor): tf.Tensor {
  const next = tf.keep(sum === undefined ? term.clone() : tf.add(sum, term));
  sum?.dispose();
  return next;
}
