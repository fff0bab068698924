/**
 * Averaged moments of local steps (DES-LOC, arXiv 2505.22549): in some steps they travel behind the displacement, and
 * every trainer that applies the step's record takes their mean for its own. The coordinator sums them like all else.
 *
 * Trainers may have taken different numbers t_i of local steps (one is new, one was left out of a step), and M_i and
 * V_i are sums that began with zeros: E M_i = (1 - b1^t_i) E g. So what is averaged is M_i (1 - b1^T) / (1 - b1^t_i),
 * T = step x H, the count of a trainer that missed nothing, and V_i with b2: the mean then is one of T steps, without
 * bias, and counts as T. (The mean of M_i as they are has the bias 1 - sum p_i b^t_i. b^t is convex, so that the mean of
 * t_i, and all the more the greatest, is too much for it: V would be too small, and steps too long.) Where all
 * t_i are T, as they mostly are, the factor is 1 and no bit changes. SGD's momentum has no bias correction: it is
 * averaged as it is.
 */
import * as tf from '@tensorflow/tfjs-core';
import { COUNT_KIND, innerState } from './displacement.ts';
import type { LocalState } from './feedback/feedback.ts';
import { biasCorrection } from './optimizer/bias-correction.ts';
import type { RuleState } from './optimizer/rule.ts';
import { momentsIn, type MomentKind, type Slot } from './slot.ts';

/** What of the run the mathematics needs. */
export interface AveragingOptions {
  readonly betas: readonly [number, number];
  /** H. */
  readonly localSteps: number;
}

/**
 * The moments that travel in step `step`, of a trainer that has taken `count` local steps, in their order.
 * New tensors. @param share multiplies them: of a slot that carries sums the trainer's share of the step, else 1
 */
export function momentsToSend(
  slot: Slot,
  state: RuleState,
  { step, count, share }: { readonly step: number; readonly count: number; readonly share: number },
  options: AveragingOptions,
): tf.Tensor[] {
  return momentsIn(slot, step).map((kind) => {
    const factor = share * rescaling(slot, kind, count, step * options.localSteps, options);
    return scaled(state[kind] as tf.Tensor, factor);
  });
}

/**
 * What a trainer keeps of a slot after it took the means over. If all its moments came they count as T local steps.
 * A first moment that came alone is made one of as many steps as the trainer's own second moment has seen, and held
 * within what that allows: other trainers may have had gradients where this one had none, and the root of V is
 * divided by.
 * @param means by kind; the caller disposes them, and what of `kept` is not in the result
 */
export function withMeans(
  slot: Slot,
  kept: LocalState,
  means: ReadonlyMap<MomentKind, tf.Tensor>,
  step: number,
  options: AveragingOptions,
): LocalState {
  const whole = step * options.localSteps;
  const own = (kept[COUNT_KIND] as tf.Tensor).dataSync()[0]!;
  const hasAll = innerState(slot).every(({ kind }) => kind === COUNT_KIND || means.has(kind as MomentKind));
  const count = hasAll ? whole : own;
  const taken = [...means].map(([kind, mean]) => {
    const value = tf.tidy(() => {
      const moment = scaled(mean, rescaling(slot, kind, whole, count, options));
      // Of squares; whoever sent something else shall not make the others divide by the root of it.
      if (kind === 'v') return tf.relu(moment);
      const v = kept['v'];
      return hasAll || !(v instanceof tf.Tensor) ? moment : within(moment, v, count, options);
    });
    return [kind, tf.keep(value)] as const;
  });
  return { ...kept, ...Object.fromEntries(taken), [COUNT_KIND]: tf.keep(tf.tensor1d([count])) };
}

/** From a moment of `from` steps to one of `to`. */
function rescaling(
  { inner }: Slot,
  kind: MomentKind,
  from: number,
  to: number,
  { betas }: AveragingOptions,
): number {
  if (from === to || inner !== 'adamw') return 1;
  const beta = betas[kind === 'm' ? 0 : 1];
  return biasCorrection(beta, to) / biasCorrection(beta, from);
}

/** Rounding to f32 does not count as leaving the bound. */
const SLACK = 1.001;

/**
 * M, held within what any `count` gradients with this V can have made of it:
 * M^2 <= V (1 - b1)^2 / (1 - b2) sum_(j < count) (b1^2 / b2)^j, by Cauchy and Schwarz.
 */
function within(m: tf.Tensor, v: tf.Tensor, count: number, { betas }: AveragingOptions): tf.Tensor {
  const [beta1, beta2] = betas;
  const ratio = (beta1 * beta1) / beta2;
  const sum = ratio === 1 ? count : biasCorrection(ratio, count) / (1 - ratio);
  if (!Number.isFinite(sum)) return m;
  const bound = tf.mul(tf.sqrt(v), SLACK * (1 - beta1) * Math.sqrt(sum / (1 - beta2)));
  return tf.minimum(tf.maximum(m, tf.neg(bound)), bound);
}

function scaled(x: tf.Tensor, factor: number): tf.Tensor {
  return factor === 1 ? tf.clone(x) : tf.mul(x, factor);
}
