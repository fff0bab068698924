import test from 'ava';
import { portableNormal } from '../../../src/galore/projection/portable-normal.ts';
import { derive, randomUint32 } from '../../../src/random.ts';

const KEY = derive(5, 'normal');
const COUNT = 20_000;
const PINNED = [
  0.09807092718561228, -1.5478284761611536, 1.5327080897239913, 0.06058725569786777, -1.2857645103430353,
];
const values = Float64Array.from({ length: COUNT }, (_, i) => portableNormal(KEY, i));

const mean = (f: (x: number) => number): number => values.reduce((sum, x) => sum + f(x), 0) / COUNT;

// Standard errors of these means: 0.007, 0.010, 0.027, 0.07.
test('the numbers have the moments of the normal distribution', (t) => {
  t.true(Math.abs(mean((x) => x)) < 0.03);
  t.true(Math.abs(mean((x) => x ** 2) - 1) < 0.04);
  t.true(Math.abs(mean((x) => x ** 3)) < 0.12);
  t.true(Math.abs(mean((x) => x ** 4) - 3) < 0.3);
});

// Known quantiles of the normal distribution.
test('shares below known quantiles are as they are in a table', (t) => {
  for (const [quantile, share] of [
    [-2.575829303549, 0.005],
    [-1.95996398454, 0.025],
    [-0.674489750196, 0.25],
    [0, 0.5],
    [1.281551565545, 0.9],
    [2.326347874041, 0.99],
  ] as const) {
    const below = mean((x) => (x < quantile ? 1 : 0));
    const standardError = Math.sqrt((share * (1 - share)) / COUNT);
    t.true(Math.abs(below - share) < 4 * standardError, `${quantile}: ${below}, not ${share}`);
  }
});

// Phi(x) by integrating the density from 0 to x with Simpson's rule must give back the uniform it came from.
test('each number is the quantile of its uniform, in the middle and in the tails', (t) => {
  const density = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  for (let i = 0; i < 2000; i++) {
    const x = values[i]!;
    const steps = 400;
    let area = density(0) + density(x);
    for (let k = 1; k < steps; k++) area += density((x * k) / steps) * (k % 2 === 0 ? 2 : 4);
    const phi = 0.5 + (area * x) / steps / 3;
    const u = (randomUint32(KEY, i) + 0.5) / 2 ** 32;
    t.true(Math.abs(phi - u) < 2e-8 * Math.max(1, Math.abs(x)), `${x}: ${phi}, not ${u}`);
  }
});

test('the numbers are these, on every machine', (t) => {
  t.deepEqual(
    [0, 1, 2, 3, 4].map((i) => portableNormal(derive(1), i)),
    PINNED,
  );
});
