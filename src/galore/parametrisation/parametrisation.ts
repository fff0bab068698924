/**
 * What a parametrisation is: the map from the trainable tensors of a method to a tensor of the model, W = W(θ), and
 * its adjoint, from the gradient of W to those of θ. One file per method; parametrisations.ts finds them by name.
 * No tensor library is loaded here: the coordinator reads the tables too, and trainers pass theirs in.
 */
import type * as tf from '@tensorflow/tfjs-core';
import type { RunConfig } from '../../config/schema.ts';
import type { ConfigFault } from '../../errors.ts';
import type { product } from '../product.ts';
import type { TensorSpec } from '../slot.ts';

/** A slot's tensor that a tensor of the model is made of. */
export interface Part extends TensorSpec {
  /** One that is not trained travels in snapshots only, and has no optimizer state. */
  readonly isTrained: boolean;
}

/** What a parametrisation makes of a tensor of the model: a slot as it is, trained or not, or parts in the order of its map. */
export type Treatment = 'trained' | 'frozen' | readonly Part[];

/** A tensor of the model that is made of parts. A part may be one of several tensors'. */
export interface MadeTensor {
  readonly tensor: TensorSpec;
  readonly parts: readonly Part[];
}

/** What the maps are given: the values of the parts, which stay the caller's, and the engine. */
export interface MapInput {
  readonly made: MadeTensor;
  /** By part. */
  readonly values: readonly tf.Tensor[];
  readonly engine: Engine;
}

/** The engine's operations. Only `product` takes gradients, which may be factors (product.ts). */
export interface Engine {
  readonly tf: typeof tf;
  readonly product: typeof product;
}

/** New values of parts after some steps, the same on every replica: a function of the state, the step and the seed. */
export interface Renewal {
  /** How often it has come when the update of step `step` is done and what follows from it. */
  times(step: number): number;
  /** By part; null: it stays. New tensors. */
  renew(input: MapInput & { readonly step: number; readonly seed: number }): readonly (tf.Tensor | null)[];
  /** Of the optimizer's state of trained parts the share that becomes zero, the numbers of least magnitude first. */
  readonly prunedShare: number;
}

/** Of parametrisations that peft knows as LoRA: what multiplies B·A, alpha / rank or with rslora alpha / sqrt(rank). */
export interface PeftLora {
  readonly rank: number;
  readonly alpha: number;
  readonly useRslora: boolean;
}

/** Whether the update of step `step` is followed by one. */
export function isRenewed({ renewal }: Pick<Parametrisation, 'renewal'>, step: number): boolean {
  return renewal !== undefined && renewal.times(step) > renewal.times(step - 1);
}

export interface Parametrisation {
  /** What of the configuration a model with these tensors does not allow. */
  faults?(tensors: readonly TensorSpec[]): readonly ConfigFault[];
  /** What becomes of a tensor of the model. */
  treat(tensor: TensorSpec): Treatment;
  /** First values of a part that the model itself does not have. */
  initialise(part: Part, seed: number): Float32Array;
  /** W(θ), a new tensor of the made tensor's shape. */
  materialise(input: MapInput): tf.Tensor;
  /** The gradients of the parts for the gradient of W, by part; null for those that are not trained. New tensors. */
  pullback(gradient: tf.Tensor, input: MapInput): readonly (tf.Tensor | null)[];
  readonly renewal?: Renewal;
  /** Left out: what is trained is no adapter that peft could load beside the model the run began with. */
  readonly peft?: PeftLora;
}

/** What a parametrisation is made for. */
export interface ParametrisationOptions {
  readonly method: RunConfig['method'];
  /** `method.rank` as a number. */
  readonly rank: number;
}

/** A model's tensors under a parametrisation. */
export interface ParameterTable {
  /** The model's tensors. */
  readonly tensors: readonly TensorSpec[];
  readonly parametrisation: Parametrisation;
  /** Tensors that are not slots themselves, by name. */
  readonly made: ReadonlyMap<string, MadeTensor>;
  /** The slots' tensors, in the order of the model's. */
  readonly parts: readonly Part[];
}

/** The table of a model. */
export function parameterTable(
  tensors: readonly TensorSpec[],
  parametrisation: Parametrisation,
): ParameterTable {
  const made = new Map<string, MadeTensor>();
  const parts = new Map<string, Part>();
  for (const tensor of tensors) {
    const treatment = parametrisation.treat(tensor);
    if (typeof treatment === 'string') {
      parts.set(tensor.name, { ...tensor, isTrained: treatment === 'trained' });
      continue;
    }
    made.set(tensor.name, { tensor, parts: treatment });
    for (const part of treatment) parts.set(part.name, part);
  }
  return { tensors, parametrisation, made, parts: [...parts.values()] };
}
