/**
 * The trainer's copy of the training state: weights, moments and bases as tensors, changed only by
 * records. Two replicas that started from the same snapshot and took the same records are equal.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { RunConfig } from '../config/schema.ts';
import { compareNames, WeightsHasher } from '../files/weights-hash.ts';
import { codecFor, type CodecName } from '../galore/codec/codec.ts';
import { unitBasis } from '../galore/projection/sketch.ts';
import { transportMoments, type Moments } from '../galore/projection/transport.ts';
import { basisShape, payloadShape, sizeOf, type ProjectedSlot, type Slot } from '../galore/slot.ts';
import { stateTensors, type StateTensor } from '../galore/state-table.ts';
import { applyUpdate, type Hyperparameters } from '../galore/step-rule.ts';
import { WeightStore } from './model/weights.ts';

/** A tensor's bytes as they came over the wire. */
export interface EncodedTensor {
  readonly codec: CodecName;
  readonly bytes: Uint8Array;
}

/** The settings of the optimizer that a record does not carry. */
export interface ReplicaOptions {
  readonly method: RunConfig['method'];
  readonly optimizer: RunConfig['optimizer'];
}

export class Replica {
  readonly slots: readonly Slot[];
  readonly weights: WeightStore;
  readonly #moments: Moments[];
  readonly #bases: (tf.Tensor2D | null)[];
  readonly #options: ReplicaOptions;

  /**
   * @param state tensors by their names in the state table; moments that are missing are zero, bases
   * that are missing come with the first refresh.
   */
  constructor(slots: readonly Slot[], state: ReadonlyMap<string, Float32Array>, options: ReplicaOptions) {
    this.slots = slots;
    this.#options = options;
    this.weights = WeightStore.fromArrays(
      slots.map((slot) => {
        const values = state.get(`weights/${slot.name}`);
        if (values === undefined) throw new RangeError(`the snapshot has no weights/${slot.name}`);
        return { name: slot.name, shape: slot.shape, values };
      }),
    );
    this.#moments = slots.map((slot) => ({
      m: tensorOrZeros(state.get(`m/${slot.name}`), payloadShape(slot)),
      v: tensorOrZeros(state.get(`v/${slot.name}`), payloadShape(slot)),
    }));
    this.#bases = slots.map((slot) => {
      const values = state.get(`basis/${slot.name}`);
      return slot.policy === 'one-sided' && values !== undefined
        ? tf.tensor2d(values, [...basisShape(slot)])
        : null;
    });
  }

  /** The basis of a projected slot; it exists from the first refresh on. */
  basis(slot: ProjectedSlot): tf.Tensor2D {
    const basis = this.#bases[slot.index];
    if (basis === null || basis === undefined) throw new Error(`${slot.name} has no basis yet`);
    return basis;
  }

  /**
   * Installs the new bases of a `basis` record in step `step` and carries the moments over. A kept slot
   * (its gradient was zero) that has no basis yet gets the first unit vectors.
   */
  installBases(step: number, bases: ReadonlyMap<number, EncodedTensor>, keptSlots: readonly number[]): void {
    for (const [index, encoded] of bases) {
      const slot = this.#projectedSlot(index);
      const shape = basisShape(slot);
      const values = codecFor(encoded.codec).decode(encoded.bytes, sizeOf(shape));
      this.#replaceBasis(slot, tf.tensor2d(values, [...shape]), step);
    }
    for (const index of keptSlots) {
      const slot = this.#projectedSlot(index);
      if (this.#bases[index] !== null) continue;
      this.#bases[index] = tf.tensor2d(unitBasis(slot), [...basisShape(slot)]);
    }
  }

  /** Applies the summed contribution of step `step` to every slot it carries. */
  applyUpdate(step: number, learningRate: number, tensors: ReadonlyMap<number, EncodedTensor>): void {
    const { optimizer, method } = this.#options;
    const hyper: Hyperparameters = {
      step,
      learningRate,
      betas: optimizer.betas,
      eps: optimizer.eps,
      weightDecay: optimizer.weight_decay,
      semantics: optimizer.semantics,
      scale: method.scale,
    };
    for (const [index, encoded] of tensors) {
      const slot = this.slots[index];
      const moments = this.#moments[index];
      if (slot === undefined || moments === undefined) throw new RangeError(`there is no slot ${index}`);
      const shape = payloadShape(slot);
      const values = codecFor(encoded.codec).decode(encoded.bytes, sizeOf(shape));
      const summed = tf.tensor(values, [...shape]);
      const basis = slot.policy === 'one-sided' ? this.basis(slot) : null;
      const next = applyUpdate(this.weights.get(slot.name), slot, summed, moments, basis, hyper);
      tf.dispose([summed, moments.m, moments.v]);
      this.weights.set(slot.name, next.weight);
      this.#moments[index] = { m: next.m, v: next.v };
    }
  }

  /** Handles on the whole state in the order of the state table; the caller disposes them. */
  cloneState(): tf.Tensor[] {
    return stateTensors(this.slots).map((tensor) => tf.clone(this.#tensorOf(tensor)));
  }

  /** The hash of all weights, the same as in the manifest of a checkpoint: equal where the weights are equal. */
  weightsSha256(): Uint8Array {
    const hasher = new WeightsHasher();
    for (const name of this.slots.map((slot) => slot.name).sort(compareNames)) {
      hasher.begin(name);
      hasher.update(bytesOf(this.weights.get(name)));
    }
    return hasher.digest();
  }

  dispose(): void {
    this.weights.dispose();
    for (const { m, v } of this.#moments) tf.dispose([m, v]);
    for (const basis of this.#bases) basis?.dispose();
  }

  #replaceBasis(slot: ProjectedSlot, basis: tf.Tensor2D, step: number): void {
    const old = this.#bases[slot.index] ?? null;
    const moments = this.#moments[slot.index];
    if (old !== null && moments !== undefined) {
      const change = { oldBasis: old, newBasis: basis, side: slot.side };
      const completedSteps = step - 1;
      this.#moments[slot.index] = transportMoments(
        moments,
        change,
        this.#options.method.moments,
        completedSteps,
        this.#options.optimizer.betas,
      );
      tf.dispose([moments.m, moments.v, old]);
    }
    this.#bases[slot.index] = basis;
  }

  #projectedSlot(index: number): ProjectedSlot {
    const slot = this.slots[index];
    if (slot?.policy !== 'one-sided') throw new RangeError(`slot ${index} is not projected`);
    return slot;
  }

  #tensorOf(tensor: StateTensor): tf.Tensor {
    const { slot } = tensor;
    switch (tensor.kind) {
      case 'weights':
        return this.weights.get(slot.name);
      case 'm':
      case 'v':
        return this.#moments[slot.index]![tensor.kind];
      case 'basis':
        return this.#bases[slot.index]!;
    }
  }
}

function tensorOrZeros(values: Float32Array | undefined, shape: readonly number[]): tf.Tensor {
  return values === undefined ? tf.zeros([...shape]) : tf.tensor(values, [...shape]);
}

function bytesOf(tensor: tf.Tensor): Uint8Array {
  const values = tensor.dataSync<'float32'>();
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
