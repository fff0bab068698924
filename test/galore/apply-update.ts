/** One step of a slot through its rule, in the words of the moments: what most tests of AdamW need. */
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../src/galore/optimizer/rules.ts';
import type { Moments } from '../../src/galore/projection/transport.ts';
import type { Slot } from '../../src/galore/slot.ts';
import type { Tensor, Tensor2D } from './tensors.ts';

/** What AdamW does not look at. */
export const OTHER_RULES: Pick<
  Hyperparameters,
  'momentum' | 'nesterov' | 'limiter' | 'adafactor' | 'updateClip' | 'seed' | 'outer'
> = {
  momentum: 0.9,
  nesterov: false,
  limiter: 1.01,
  updateClip: 1,
  seed: 1,
  outer: { learningRate: 1, momentum: 0, localSteps: 1 },
  adafactor: {
    eps: [1e-30, 1e-3],
    clip_threshold: 1,
    decay_rate: -0.8,
    beta1: 0,
    scale_parameter: false,
    relative_step: false,
  },
};

export function applyUpdate(
  weight: Tensor,
  slot: Slot,
  payload: Tensor,
  { m, v }: Moments,
  basis: Tensor2D | null,
  hyper: Omit<Hyperparameters, keyof typeof OTHER_RULES>,
): Moments & { readonly weight: Tensor } {
  const input = { weight, slot, payload, state: { m, v }, basis, hyper: { ...OTHER_RULES, ...hyper } };
  const next = ruleFor(slot.rule).step(input);
  return { weight: next.weight, m: next.state['m'] as Tensor, v: next.state['v'] as Tensor };
}

export type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
