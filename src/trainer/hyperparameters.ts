/** From the configuration to what optimizer rules read. Pure. */
import type { RunConfig } from '../config/schema.ts';
import type { Hyperparameters } from '../galore/optimizer/rule.ts';

/** Everything but the step and its learning rate, which a record carries. */
export function hyperparametersOf({
  method,
  optimizer,
  local_steps: local,
  seed,
}: Pick<RunConfig, 'method' | 'optimizer' | 'local_steps' | 'seed'>): Omit<
  Hyperparameters,
  'step' | 'learningRate'
> {
  const { betas, eps, semantics, momentum, nesterov, adafactor } = optimizer;
  const { scale, limiter } = method;
  const weightDecay = optimizer.weight_decay;
  const updateClip = method.update_clip;
  return {
    ...{ betas, eps, semantics, momentum, nesterov, adafactor },
    ...{ scale, limiter, weightDecay, updateClip, seed },
    outer: { learningRate: local.outer_lr, momentum: local.outer_momentum, localSteps: local.count },
  };
}
