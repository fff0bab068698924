/**
 * New weights: the same seed and name give the same numbers on every machine, so the coordinator can
 * make step 0 alone. Pure.
 */
import { sizeOf, type TensorSpec } from '../galore/slot.ts';
import { derive, randomNormal } from '../random.ts';
import type { ModelConfig } from './model-config.ts';

/**
 * Initial values of one tensor: ones for the norms, zeros for biases, otherwise normal with mean 0 and standard
 * deviation `initializerRange` (Hugging Face's rule for Llama and BERT), from the stream `weights/<name>`.
 */
export function initialiseTensor(
  spec: TensorSpec,
  config: Pick<ModelConfig, 'initializerRange'>,
  seed: number,
): Float32Array {
  const values = new Float32Array(sizeOf(spec.shape));
  if (spec.name.endsWith('.bias')) return values;
  if (spec.shape.length === 1) return values.fill(1);
  const key = derive(seed, 'weights', spec.name);
  for (let i = 0; i < values.length; i++) values[i] = config.initializerRange * randomNormal(key, i);
  return values;
}
