/**
 * Normal random numbers with the same bits on every machine. `Math.log` and `Math.cos` differ in the last place
 * from one version of an engine to the next; here is nothing but + - * / and square roots. For matrices that
 * every trainer generates for itself.
 */
import { randomUint32, type RandomKey } from '../../random.ts';

/**
 * Standard normal number `index` of the stream: the inverse of the normal distribution at (u + 1/2) / 2^32 for a
 * uint32 u, by the rational approximation of P. J. Acklam (relative error below 1.15e-9).
 */
export function portableNormal(key: RandomKey, index: number): number {
  const u = randomUint32(key, index);
  const isUpper = u >= 0x80000000;
  const p = ((isUpper ? 0xffffffff - u : u) + 0.5) / 0x100000000; // in the lower half: (0, 1/2)
  const quantile = p < TAIL ? tailQuantile(p) : centralQuantile(p);
  return isUpper ? -quantile : quantile;
}

const TAIL = 0.02425;
const A = [
  -39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716,
  2.506628277459239,
];
const B = [
  -54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572, 1,
];
const C = [
  -0.007784894002430293, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968,
  2.938163982698783,
];
const D = [0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416, 1];

function centralQuantile(p: number): number {
  const q = p - 0.5;
  const r = q * q;
  return (polynomial(A, r) * q) / polynomial(B, r);
}

function tailQuantile(p: number): number {
  const q = Math.sqrt(-2 * portableLog(p));
  return polynomial(C, q) / polynomial(D, q);
}

/** Coefficients from the highest power down. */
function polynomial(coefficients: readonly number[], x: number): number {
  let value = 0;
  for (const coefficient of coefficients) value = value * x + coefficient;
  return value;
}

/** ln p for 0 < p < 1: p = m 2^-e with m in [1, 2), ln m = 2 artanh((m - 1) / (m + 1)), to about 1e-12. */
function portableLog(p: number): number {
  let m = p;
  let exponent = 0;
  for (; m < 1; m *= 2) exponent++;
  const z = (m - 1) / (m + 1); // at most 1/3
  const square = z * z;
  let sum = 0;
  for (let k = 23; k >= 1; k -= 2) sum = sum * square + 1 / k;
  return 2 * z * sum - exponent * Math.LN2;
}
