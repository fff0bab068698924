/** AdamW as in torch.optim: decay before the update, eps added to the bias-corrected root. */

export interface AdamwState {
  readonly m: Float64Array;
  readonly v: Float64Array;
}

export interface AdamwOptions {
  /** From 1. */
  readonly step: number;
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}

/** Updates `weight` and `state` in place. */
export function adamwStep(
  weight: Float32Array,
  gradient: ArrayLike<number>,
  { m, v }: AdamwState,
  { step, lr, betas: [beta1, beta2], eps, weightDecay }: AdamwOptions,
): void {
  const correction1 = 1 - beta1 ** step;
  const correction2 = 1 - beta2 ** step;
  for (let i = 0; i < weight.length; i++) {
    const g = gradient[i] ?? NaN;
    const mean = (m[i] = beta1 * (m[i] ?? 0) + (1 - beta1) * g);
    const square = (v[i] = beta2 * (v[i] ?? 0) + (1 - beta2) * g * g);
    const decayed = (weight[i] ?? NaN) * (1 - lr * weightDecay);
    weight[i] = decayed - (lr * (mean / correction1)) / (Math.sqrt(square / correction2) + eps);
  }
}
