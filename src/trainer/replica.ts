/**
 * The trainer's copy of the training state: weights, optimizer state and bases, changed only by records.
 * Two replicas that started from the same snapshot and took the same records are equal.
 */
import { createHash } from 'node:crypto';
import * as tf from '@tensorflow/tfjs-core';
import type { RunConfig } from '../config/schema.ts';
import { compareNames, WeightsHasher } from '../files/weights-hash.ts';
import type { SlotBasisChange } from '../galore/feedback/feedback.ts';
import { codecFor } from '../galore/codec/codec.ts';
import type { PartCodec } from '../protocol/messages.ts';
import { quantiseWeight } from '../galore/int8-weight.ts';
import { ruleState } from '../galore/optimizer/rule-state.ts';
import { tensorsOf, type RuleState } from '../galore/optimizer/rule.ts';
import { basisSimilarity } from '../galore/projection/similarity.ts';
import { firstState, ruleFor } from '../galore/optimizer/rules.ts';
import { isRenewed, type ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import { prunedState } from '../galore/optimizer/prune.ts';
import { unitBasis } from '../galore/projection/sketch.ts';
import {
  basisShape,
  hasBasis,
  payloadShape,
  sizeOf,
  tensorLength,
  travels,
  type ProjectedSlot,
  type Slot,
} from '../galore/slot.ts';
import { scatterRows } from '../galore/rows.ts';
import { stateFault, stateTensors, type StateTensor } from '../galore/state-table.ts';
import { advanceSlot } from './advance-slot.ts';
import { hyperparametersOf } from './hyperparameters.ts';
import { Int8Weight } from './int8-weight.ts';
import { inputOf, slotGradients, weightMaker, type GradientTaker } from './parameters.ts';
import { tensorOfCopy } from './tensor-of-copy.ts';
import { WeightStore, type SourcedWeight, type WeightValues } from './model/weights.ts';

/** A tensor of a snapshot, by its dtype in the state table. */
export type StateArray = Float32Array | Uint8Array;

/** A tensor's bytes as they came over the wire. */
export interface EncodedTensor {
  readonly codec: PartCodec;
  readonly bytes: Uint8Array;
}

/** A tensor or array of the state, or how to make it: a weight that lives as codes. Tensors are the caller's. */
export type StateValue = tf.Tensor | Uint8Array | (() => tf.Tensor);

/** The settings of the run that a record does not carry. */
export interface ReplicaOptions {
  readonly seed: number;
  readonly method: RunConfig['method'];
  readonly optimizer: RunConfig['optimizer'];
  readonly local_steps: RunConfig['local_steps'];
}

export class Replica {
  readonly #parameters: ParameterTable | null;
  readonly #slots: Slot[];
  readonly weights: WeightStore;
  readonly #states: RuleState[];
  readonly #bases: (tf.Tensor2D | null)[];
  readonly #options: ReplicaOptions;

  /**
   * @param state arrays by their names in the state table: all of them or, before the first step, weights
   * alone. Then the optimizer's state is zero, and bases come with the first refresh or, with a rule that
   * makes its own, with the first step.
   * @param parameters how the model's weights are made of the slots'; null: they are the same
   * @throws RangeError for arrays that are not as the state table has them
   */
  constructor(
    slots: readonly Slot[],
    state: ReadonlyMap<string, StateArray>,
    options: ReplicaOptions,
    parameters: ParameterTable | null = null,
  ) {
    const fault = stateFault(slots, tensorsGiven(state), 0);
    if (fault !== null) throw new RangeError(fault);
    this.#slots = [...slots];
    this.#options = options;
    this.#parameters = parameters;
    this.weights = WeightStore.fromArrays(slots.map((slot) => weightOf(slot, state)));
    this.weights.makeWith(parameters === null ? null : weightMaker(parameters));
    const isFirst = [...state.keys()].every((name) => name.startsWith('weights/'));
    this.#states = slots.map((slot) => (isFirst ? firstState(slot, options.seed) : stateOf(slot, state)));
    this.#bases = slots.map((slot) => {
      const values = state.get(`basis/${slot.name}`);
      return hasBasis(slot) && values !== undefined
        ? tf.tensor2d(values as Float32Array, [...basisShape(slot)])
        : null;
    });
  }

  /** The slots, at the ranks of their bases. */
  get slots(): readonly Slot[] {
    return this.#slots;
  }

  /** The basis of a projected slot; it exists from the first refresh on. */
  basis(slot: ProjectedSlot): tf.Tensor2D {
    const basis = this.#bases[slot.index];
    if (basis === null || basis === undefined) throw new Error(`${slot.name} has no basis yet`);
    return basis;
  }

  /** The optimizer's state of a slot. */
  state(slot: Slot): RuleState {
    return this.#states[slot.index]!;
  }

  /** What the model's backward pass is called with; `take` gets the gradients of slots that are trained (parameters.ts). */
  gradients(take: (slot: Slot, gradient: tf.Tensor) => void): GradientTaker {
    return slotGradients(this.#parameters, this.#slots, this.weights, take);
  }

  /** How much of its basis a slot would keep with a new one, 0 to 1; -1: it has none yet. */
  similarity(slot: ProjectedSlot, fresh: Float32Array): number {
    const old = this.#bases[slot.index] ?? null;
    return old === null ? -1 : basisSimilarity(slot, fresh, old.dataSync<'float32'>() as Float32Array);
  }

  /**
   * Installs the new bases of a `basis` record in step `step` and carries the moments over. A kept slot
   * (its gradient was zero) that has no basis yet gets the first unit vectors. `onChange` is told of each slot whose
   * basis is about to be replaced.
   */
  installBases(
    step: number,
    bases: ReadonlyMap<number, EncodedTensor>,
    keptSlots: readonly number[],
    onChange: (change: SlotBasisChange) => void = () => {},
  ): void {
    for (const [index, encoded] of bases) {
      const old = this.#projectedSlot(index);
      const [rows] = basisShape(old);
      const values = codecFor(encoded.codec).decode(encoded.bytes, encoded.bytes.length / 4);
      // The refresh may have chosen another rank.
      const slot = { ...old, rank: values.length / rows };
      this.#slots[index] = slot;
      const newBasis = tf.tensor2d(values, [...basisShape(slot)]);
      const oldBasis = this.#bases[index] ?? null;
      if (oldBasis !== null) onChange({ oldSlot: old, oldBasis, newSlot: slot, newBasis });
      this.#replaceBasis(slot, newBasis, step);
    }
    for (const index of keptSlots) {
      const slot = this.#projectedSlot(index);
      if (this.#bases[index] !== null) continue;
      this.#bases[index] = tf.tensor2d(unitBasis(slot), [...basisShape(slot)]);
    }
  }

  /** Applies the summed contribution of step `step` to every slot it carries. */
  applyUpdate(step: number, learningRate: number, tensors: ReadonlyMap<number, EncodedTensor>): void {
    const hyper = { ...hyperparametersOf(this.#options), step, learningRate };
    const counts = [...tensors.keys()].map((index) => tensorLength(this.#slotAt(index), step));
    const scratch = new Float32Array(Math.max(0, ...counts));
    for (const [index, encoded] of tensors) {
      const slot = this.#slotAt(index);
      const shape = payloadShape(slot, step);
      const values = numbersOf(slot, encoded, tensorLength(slot, step), scratch);
      const payload = tensorOfCopy(values.subarray(0, sizeOf(shape)), shape);
      const kept = { state: this.#states[index]!, basis: this.#bases[index] ?? null };
      const next = advanceSlot(this.weights, slot, payload, kept, hyper, this.#options.seed);
      this.#states[index] = next.state;
      this.#bases[index] = next.basis;
    }
    this.#renew(step);
  }

  /** The trained slots whose values the parametrisation makes anew after the update of `step`. */
  renewedSlots(step: number): readonly Slot[] {
    if (this.#parameters === null || !isRenewed(this.#parameters.parametrisation, step)) return [];
    const { made } = this.#parameters;
    const names = new Set([...made.values()].flatMap(({ parts }) => parts.map(({ name }) => name)));
    return this.#slots.filter((slot) => names.has(slot.name) && travels(slot));
  }

  #renew(step: number): void {
    if (this.#parameters === null || !isRenewed(this.#parameters.parametrisation, step)) return;
    const renewal = this.#parameters.parametrisation.renewal!;
    for (const tensor of this.#parameters.made.values()) {
      const input = inputOf(tensor, (name) => this.weights.part(name));
      const fresh = renewal.renew({ ...input, step, seed: this.#options.seed });
      tensor.parts.forEach(({ name }, i) => {
        const value = fresh[i] ?? null;
        if (value !== null) this.weights.set(name, value);
      });
    }
    for (const slot of this.renewedSlots(step)) {
      const old = this.#states[slot.index]!;
      this.#states[slot.index] = prunedState(slot, old, renewal.prunedShare);
      tf.dispose(tensorsOf(old));
    }
  }

  /** Handles on the whole state in the order of the state table; the caller disposes the tensors. */
  cloneState(): StateValue[] {
    return stateTensors(this.slots).map((tensor) => {
      const value = this.#valueOf(tensor);
      return value instanceof tf.Tensor ? tf.clone(value) : value;
    });
  }

  /** The hash of all weights, the same as in the manifest of a checkpoint: equal where the weights are equal. */
  weightsSha256(): Uint8Array {
    const hasher = new WeightsHasher();
    for (const name of this.slots.map((slot) => slot.name).sort(compareNames)) {
      hasher.begin(name);
      hasher.update(bytesOf(this.weights.part(name)));
      this.weights.release(); // one at a time
    }
    return hasher.digest();
  }

  /**
   * The hash of all bases, hexadecimal, and of how often the parametrisation has begun anew until `step`: equal where
   * what a trainer keeps for itself is of the same values.
   */
  basesSha256(step: number): string {
    const renewals = this.#parameters?.parametrisation.renewal?.times(step) ?? 0;
    const hash = createHash('sha256');
    if (renewals > 0) hash.update(`renewed ${renewals}\0`);
    for (const { name, index } of this.#slots) {
      const basis = this.#bases[index] ?? null;
      if (basis !== null) hash.update(`${name}\0`).update(basis.dataSync<'float32'>());
    }
    return hash.digest('hex');
  }

  dispose(): void {
    this.weights.dispose();
    for (const state of this.#states) tf.dispose(tensorsOf(state));
    for (const basis of this.#bases) basis?.dispose();
  }

  #replaceBasis(slot: ProjectedSlot, basis: tf.Tensor2D, step: number): void {
    const old = this.#bases[slot.index] ?? null;
    const state = this.#states[slot.index]!;
    if (old !== null) {
      this.#states[slot.index] = ruleFor(slot.rule).carry({
        slot,
        state,
        change: { oldBasis: old, newBasis: basis, side: slot.side },
        moments: this.#options.method.moments,
        completedSteps: step - 1,
        betas: this.#options.optimizer.betas,
      });
      tf.dispose([...tensorsOf(state), old]);
    } else {
      // Nothing has been learnt yet, at whatever rank.
      tf.dispose(tensorsOf(state));
      this.#states[slot.index] = firstState(slot, this.#options.seed);
    }
    this.#bases[slot.index] = basis;
  }

  #slotAt(index: number): Slot {
    const slot = this.slots[index];
    if (slot === undefined) throw new RangeError(`there is no slot ${index}`);
    return slot;
  }

  #projectedSlot(index: number): ProjectedSlot {
    const slot = this.slots[index];
    if (slot === undefined || !hasBasis(slot)) throw new RangeError(`slot ${index} has no basis`);
    return slot;
  }

  #valueOf({ kind, slot }: StateTensor): StateValue {
    const source = this.weights.sourceOf(slot.name);
    const codes = source instanceof Int8Weight ? source.codes : null;
    switch (kind) {
      case 'weights':
        // Not made before it is sent: all of them at once would be the whole model in f32.
        return codes === null ? this.weights.part(slot.name) : () => source!.materialise();
      case 'basis':
        return this.#bases[slot.index]!;
      case 'w_codes':
        return codes!.codes;
      case 'w_scales':
        return () => tf.tensor1d(codes!.scales);
      case 'w_zeros':
        return () => tf.tensor1d(codes!.zeros);
      default:
        return this.#states[slot.index]![kind]!;
    }
  }
}

/** What the arrays of a snapshot are, to be compared with the state table. */
export function tensorsGiven(
  arrays: ReadonlyMap<string, StateArray>,
): readonly { readonly name: string; readonly codec: 'u8' | 'f32'; readonly totalBytes: number }[] {
  return [...arrays].map(([name, values]) => ({
    name,
    codec: values instanceof Uint8Array ? 'u8' : 'f32',
    totalBytes: values.byteLength,
  }));
}

/** A weight of the state; one that is to be int8 and has no codes yet, before the first step, gets the nearest. */
function weightOf(slot: Slot, state: ReadonlyMap<string, StateArray>): WeightValues | SourcedWeight {
  const { name, shape } = slot;
  const values = state.get(`weights/${name}`) as Float32Array | undefined;
  if (values === undefined) throw new RangeError(`the snapshot has no weights/${name}`);
  if (slot.weights !== 'int8') return { name, shape, values };
  const codes = state.get(`w_codes/${name}`) as Uint8Array | undefined;
  if (codes === undefined) return { name, source: new Int8Weight(shape, quantiseWeight(values, null)) };
  const part = (kind: 'w_scales' | 'w_zeros') => state.get(`${kind}/${name}`) as Float32Array;
  return {
    name,
    source: new Int8Weight(shape, { codes, scales: part('w_scales'), zeros: part('w_zeros') }),
  };
}

/** The numbers of a slot's tensor of an update, in `scratch`; what the rule is given is the first of them. */
function numbersOf(slot: Slot, encoded: EncodedTensor, count: number, scratch: Float32Array): Float32Array {
  const codec = codecFor(encoded.codec);
  if (slot.policy === 'row-sparse') return scatterRows(slot, codec.name, encoded.bytes, scratch);
  return codec.decode(encoded.bytes, count, scratch);
}

function stateOf(slot: Slot, state: ReadonlyMap<string, StateArray>): RuleState {
  return Object.fromEntries(
    ruleState(slot).map(({ kind, shape, dtype }) => {
      const values = state.get(`${kind}/${slot.name}`)!; // stateFault has seen that it is there
      return [kind, dtype === 'u8' ? (values as Uint8Array) : tf.tensor(values as Float32Array, [...shape])];
    }),
  );
}

function bytesOf(tensor: tf.Tensor): Uint8Array {
  const values = tensor.dataSync<'float32'>();
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
