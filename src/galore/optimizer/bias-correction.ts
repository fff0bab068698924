/** Adam's bias corrections, by multiplication only, so that they are the same bits on every machine. */

/** 1 - beta^t. Math.pow is not exact to the last bit everywhere; repeated squaring is. */
export function biasCorrection(beta: number, t: number): number {
  let power = 1;
  let square = beta;
  for (let exponent = t; exponent > 0; exponent = Math.floor(exponent / 2)) {
    if (exponent % 2 === 1) power *= square;
    square *= square;
  }
  return 1 - power;
}

/** Where eps is added and when the weights decay; see `stepSizes` and step-rule.ts. */
export type Semantics = 'torch' | 'galore_torch';

/** Adam's direction is `stepSize * M / (sqrt(V) + eps)`, with the uncorrected moments. */
export interface StepSizes {
  readonly stepSize: number;
  readonly eps: number;
}

/**
 * Both semantics in one form. With c1 = 1 - b1^t and c2 = 1 - b2^t:
 * galore_torch: lr sqrt(c2)/c1 * M / (sqrt(V) + eps);
 * torch: lr (M/c1) / (sqrt(V/c2) + eps) = lr sqrt(c2)/c1 * M / (sqrt(V) + eps sqrt(c2)).
 */
export function stepSizes(
  learningRate: number,
  betas: readonly [number, number],
  eps: number,
  t: number,
  semantics: Semantics,
): StepSizes {
  if (!(t >= 1)) throw new RangeError(`the optimizer's steps count from 1, not ${t}`);
  const root = Math.sqrt(biasCorrection(betas[1], t));
  return {
    stepSize: (learningRate * root) / biasCorrection(betas[0], t),
    eps: semantics === 'torch' ? eps * root : eps,
  };
}
