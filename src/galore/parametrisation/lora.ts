/**
 * LoRA (Hu et al. 2021, arXiv 2106.09685): W = W0 + s·B·A with A [r, in] and B [out, r] trained and W0 [out, in] not;
 * s = lora_alpha / r, with rslora lora_alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732).
 *   dA = s·B'·G   dB = s·G·A'
 * Names, shapes and first values are those of the peft package: A uniform in ±1/sqrt(in), B zeros.
 */
import type * as tf from '@tensorflow/tfjs-core';
import type { ConfigFault } from '../../errors.ts';
import { derive, randomUniform } from '../../random.ts';
import { matrixShape, sizeOf, type TensorSpec } from '../slot.ts';
import type { MapInput, Parametrisation, ParametrisationOptions, Part } from './parametrisation.ts';

/** Ends of the names of A and B; both begin with the module's. */
export const LORA_A = '.lora_A.weight';
export const LORA_B = '.lora_B.weight';
const WEIGHT = '.weight';

/** Where adapters go unless the configuration says it: in a Llama, in a BERT. No model has both. */
export const LORA_TARGETS: readonly string[] = ['q_proj', 'v_proj', 'query', 'value'];
/** What is trained whole then, where a model has it: the heads of classification, which are new (as in peft). */
export const LORA_SAVED: readonly string[] = ['classifier', 'score'];

type Method = ParametrisationOptions['method'];

/** The fields that LoRA reads. */
export interface LoraOptions {
  readonly rank: number;
  readonly method: Pick<Method, 'lora_alpha' | 'use_rslora' | 'target_modules' | 'modules_to_save'>;
}

/** What multiplies B·A. */
export function loraScaling(method: Pick<Method, 'lora_alpha' | 'use_rslora'>, rank: number): number {
  const alpha = method.lora_alpha ?? 2 * rank;
  return alpha / (method.use_rslora ? Math.sqrt(rank) : rank);
}

export function lora({ method, rank }: LoraOptions): Parametrisation {
  const scaling = loraScaling(method, rank);
  return {
    faults: (tensors) => loraFaults(tensors, method, rank, LORA_TARGETS, LORA_SAVED),
    treat: (tensor) => {
      if (isAdapted(tensor, method)) return loraParts(tensor, rank);
      return isNamed(tensor, method.modules_to_save) ? 'trained' : 'frozen';
    },
    initialise: (part, seed) =>
      part.name.endsWith(LORA_A) ? kaimingUniform(part, seed, 0) : new Float32Array(sizeOf(part.shape)),
    materialise: ({ values, engine }) => {
      const [base, a, b] = values as [tf.Tensor, tf.Tensor2D, tf.Tensor2D];
      return engine.tf.tidy(() => engine.tf.add(base, scaled(engine.tf.matMul(b, a), scaling, engine)));
    },
    peft: { rank, alpha: method.lora_alpha ?? 2 * rank, useRslora: method.use_rslora },
    pullback: (gradient, { values, engine }) => {
      const [, a, b] = values as [tf.Tensor, tf.Tensor, tf.Tensor];
      const { tidy } = engine.tf;
      return [
        null,
        tidy(() => scaled(engine.product(b, gradient, true, false), scaling, engine)), // [r, in]
        tidy(() => scaled(engine.product(gradient, a, false, true), scaling, engine)), // [out, r]
      ];
    },
  };
}

/**
 * Targets and saved modules that the model has not, and ranks above a matrix' sides.
 * @param usualTargets, usualSaved of which a model need not have all
 */
export function loraFaults(
  tensors: readonly TensorSpec[],
  method: LoraOptions['method'],
  rank: number,
  usualTargets: readonly string[],
  usualSaved: readonly string[],
): readonly ConfigFault[] {
  const fault = (field: string, value: string, allowed: string): ConfigFault => ({
    field: `method.${field}`,
    value,
    allowed,
  });
  const linear = tensors.filter((tensor) => tensor.shape.length === 2 && !isEmbedding(tensor));
  const unknown = unknownOf(method.target_modules, linear, usualTargets);
  const adapted = tensors.filter((tensor) => isAdapted(tensor, method));
  if (unknown.length > 0 || adapted.length === 0) {
    const value = (unknown.length > 0 ? unknown : method.target_modules).join(', ');
    const rule = `no linear layer of the model has that in its name; there are ${modulesIn(linear)}`;
    return [fault('target_modules', value, rule)];
  }
  const saved = unknownOf(method.modules_to_save, tensors, usualSaved);
  const short = adapted.find((tensor) => Math.min(...matrixShape(tensor)) < rank);
  return [
    ...(saved.length === 0
      ? []
      : [fault('modules_to_save', saved.join(', '), 'no tensor of the model has that in its name')]),
    ...(short === undefined
      ? []
      : [
          fault(
            'rank',
            String(rank),
            `it must be at most ${Math.min(...matrixShape(short))}: ${short.name} is [${short.shape.join(', ')}]`,
          ),
        ]),
  ];
}

function unknownOf(
  parts: readonly string[],
  tensors: readonly TensorSpec[],
  usual: readonly string[],
): readonly string[] {
  return parts.filter((part) => !usual.includes(part) && !tensors.some(({ name }) => name.includes(part)));
}

function isEmbedding({ name }: TensorSpec): boolean {
  return /embed/.test(name);
}

/** The last parts of the modules' names. */
function modulesIn(tensors: readonly TensorSpec[]): string {
  return [...new Set(tensors.map(({ name }) => name.split('.').at(-2)!))].join(', ');
}

/** Whether a tensor gets an adapter: the matrix of a linear layer whose name contains a target, unless it is trained whole. */
export function isAdapted(
  tensor: TensorSpec,
  method: Pick<Method, 'target_modules' | 'modules_to_save'>,
): boolean {
  return (
    tensor.shape.length === 2 &&
    tensor.name.endsWith(WEIGHT) &&
    !isEmbedding(tensor) &&
    isNamed(tensor, method.target_modules) &&
    !isNamed(tensor, method.modules_to_save)
  );
}

function isNamed({ name }: TensorSpec, modules: readonly string[]): boolean {
  return modules.some((part) => name.includes(part));
}

/** W0, A and B of a matrix. */
function loraParts(tensor: TensorSpec, rank: number): readonly Part[] {
  const [rows, columns] = matrixShape(tensor);
  const module = tensor.name.slice(0, -WEIGHT.length);
  return [
    { ...tensor, isTrained: false },
    { name: `${module}${LORA_A}`, shape: [rank, columns], isTrained: true },
    { name: `${module}${LORA_B}`, shape: [rows, rank], isTrained: true },
  ];
}

/**
 * PyTorch's kaiming_uniform_(a = sqrt 5) of A [r, in]: uniform in ±1/sqrt(in), from the stream of its name.
 * @param renewals how often it was made before
 */
export function kaimingUniform({ name, shape }: TensorSpec, seed: number, renewals: number): Float32Array {
  const bound = 1 / Math.sqrt(shape[1]!);
  const key = derive(seed, 'lora', name, renewals);
  return Float32Array.from({ length: sizeOf(shape) }, (_, i) => bound * (2 * randomUniform(key, i) - 1));
}

function scaled(tensor: tf.Tensor, scaling: number, { tf: { mul } }: MapInput['engine']): tf.Tensor {
  return scaling === 1 ? tensor : mul(tensor, scaling);
}
