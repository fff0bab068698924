import test from 'ava';
import fc from 'fast-check';
import { matrix, multiply } from '../../../src/galore/matrix.ts';
import { referenceProject, referenceSketch } from '../../../src/galore/optimizer/reference.ts';
import {
  firstRound,
  heldOut,
  joinColumns,
  omega,
  refreshPlan,
  signMatrix,
  sketchPlan,
  sketchProduct,
  sketchRounds,
  sketchWidth,
  splitColumns,
  unitBasis,
  warmStart,
} from '../../../src/galore/projection/sketch.ts';
import { derive } from '../../../src/random.ts';
import {
  matrixWithSpectrum,
  maxDifference,
  orthonormalityError,
  projectedSlot,
  randomMatrix,
  refreshBasis,
  squaredNorm,
  weightedSum,
} from '../matrices.ts';

const SKETCH = { type: 'sketch', oversample: 8, power_iterations: 1 } as const;
const EXACT = { type: 'exact', oversample: 8, power_iterations: 1 } as const;

test('q power iterations take 2q + 1 rounds and exact takes one', (t) => {
  t.deepEqual(
    [0, 1, 2].map((power_iterations) => sketchRounds({ type: 'sketch', power_iterations })),
    [1, 3, 5],
  );
  t.is(sketchRounds(EXACT), 1);
});

test('the sketch is as wide as rank plus oversample, never wider than the matrix', (t) => {
  t.is(sketchWidth(projectedSlot(50, 40, 'left', 4), SKETCH), 12);
  t.is(sketchWidth(projectedSlot(50, 10, 'left', 4), SKETCH), 10);
  t.is(sketchWidth(projectedSlot(9, 40, 'right', 4), SKETCH), 9);
  t.is(sketchWidth(projectedSlot(50, 40, 'left', 4), EXACT), 40);
  t.is(sketchWidth(projectedSlot(50, 40, 'right', 4), EXACT), 50);
});

test('left: G times signs, G times the factor of rows, G again', (t) => {
  const slot = projectedSlot(50, 40, 'left', 4);
  const plans = [1, 2, 3].map((round) => sketchPlan(slot, round, refreshPlan(SKETCH)));
  t.deepEqual(plans, [
    {
      side: 'rows',
      sketchShape: [50, 12],
      factorShape: [40, 12],
      heldOutColumns: 0,
      isOmega: true,
      isFinal: false,
    },
    {
      side: 'columns',
      sketchShape: [40, 12],
      factorShape: [50, 12],
      heldOutColumns: 0,
      isOmega: false,
      isFinal: false,
    },
    {
      side: 'rows',
      sketchShape: [50, 12],
      factorShape: [40, 12],
      heldOutColumns: 0,
      isOmega: false,
      isFinal: true,
    },
  ]);
});

test('right: the mirror image', (t) => {
  const slot = projectedSlot(50, 40, 'right', 4);
  const plans = [1, 2, 3].map((round) => sketchPlan(slot, round, refreshPlan(SKETCH)));
  t.deepEqual(plans, [
    {
      side: 'columns',
      sketchShape: [40, 12],
      factorShape: [50, 12],
      heldOutColumns: 0,
      isOmega: true,
      isFinal: false,
    },
    {
      side: 'rows',
      sketchShape: [50, 12],
      factorShape: [40, 12],
      heldOutColumns: 0,
      isOmega: false,
      isFinal: false,
    },
    {
      side: 'columns',
      sketchShape: [40, 12],
      factorShape: [50, 12],
      heldOutColumns: 0,
      isOmega: false,
      isFinal: true,
    },
  ]);
});

test('exact: the gradient itself travels, transposed for side right', (t) => {
  const exact = refreshPlan(EXACT);
  t.deepEqual(sketchPlan(projectedSlot(5, 4, 'left', 2), 1, exact), {
    side: 'rows',
    sketchShape: [5, 4],
    factorShape: null,
    heldOutColumns: 0,
    isOmega: false,
    isFinal: true,
  });
  t.deepEqual(sketchPlan(projectedSlot(5, 4, 'right', 2), 1, exact).sketchShape, [4, 5]);
  t.is(sketchPlan(projectedSlot(5, 4, 'right', 2), 1, exact).side, 'columns');
});

test('a round outside the refresh is refused', (t) => {
  const slot = projectedSlot(5, 4, 'left', 2);
  for (const round of [0, 4, 1.5, NaN]) {
    t.throws(() => sketchProduct(slot, round, 3), { instanceOf: RangeError, message: /of 1 to 3/ });
  }
});

test('the signs are +-1, equal for equal seed, step and slot, and others otherwise', (t) => {
  const slot = projectedSlot(50, 40, 'left', 4);
  const signs = omega(7, 201, slot, 40, 12);
  t.is(signs.length, 480);
  t.true(signs.every((sign) => Math.abs(sign) === 1));
  t.deepEqual(omega(7, 201, slot, 40, 12), signs);
  t.notDeepEqual(omega(8, 201, slot, 40, 12), signs);
  t.notDeepEqual(omega(7, 401, slot, 40, 12), signs);
  t.notDeepEqual(omega(7, 201, { ...slot, index: 4 }, 40, 12), signs);
  t.deepEqual(signMatrix(derive(7, 'omega', 201, 3), 40, 12), signs);
});

test('the unit basis is the first columns of the identity', (t) => {
  t.deepEqual(unitBasis(projectedSlot(3, 9, 'left', 2)), Float32Array.of(1, 0, 0, 1, 0, 0));
  // U [3, 2] above V [2, 2]
  const pair = { ...projectedSlot(3, 2, 'left', 2), policy: 'two-sided' } as const;
  t.deepEqual(unitBasis(pair), Float32Array.of(1, 0, 0, 1, 0, 0, 1, 0, 0, 1));
});

test('the weighted sum of sketches is the sketch of the weighted sum', (t) => {
  for (const side of ['rows', 'columns'] as const) {
    const factor = randomMatrix(side === 'rows' ? 14 : 20, 6, 'factor', side);
    const terms = [0.5, 0.3, 0.2].map((weight, i) => ({ weight, value: randomMatrix(20, 14, 'g', i) }));
    const sum = weightedSum(
      terms.map(({ weight, value }) => ({ weight, value: referenceSketch(value, factor, { side }) })),
    );
    t.true(maxDifference(sum, referenceSketch(weightedSum(terms), factor, { side })) < 1e-12);
  }
});

test('a gradient of rank at most r is captured whole without power iterations', (t) => {
  for (const side of ['left', 'right'] as const) {
    const slot = projectedSlot(40, 30, side, 5);
    const gradient = matrixWithSpectrum(40, 30, [5, 4, 3, 2, 1], 'low rank');
    const plan = refreshPlan({ ...SKETCH, power_iterations: 0 });
    const basis = refreshBasis(slot, [{ weight: 1, value: gradient }], plan, 1)!;
    t.true(orthonormalityError(basis) < 1e-6);
    const captured = squaredNorm(referenceProject(gradient, basis, side)) / squaredNorm(gradient);
    t.true(Math.abs(captured - 1) < 1e-6, `${side}: ${captured}`);
  }
});

test('a zero gradient gives no basis', (t) => {
  const slot = projectedSlot(12, 9, 'left', 3);
  for (const options of [SKETCH, EXACT]) {
    t.is(refreshBasis(slot, [{ weight: 1, value: matrix(12, 9) }], refreshPlan(options), 1), null);
  }
});

// Captured energy |P'G|^2 over the best possible, for slow and fast spectra. Power iterations help most
// where the spectrum is flat; the values are those of algorithms for 256 x 512 and are asserted loosely.
test('the sketch captures what theory promises and power iterations improve it', (t) => {
  const rank = 16;
  const slot = projectedSlot(96, 160, 'left', rank);
  for (const [decay, atLeast] of [
    [0.5, [0.7, 0.95, 0.98]],
    [1, [0.96, 0.998, 0.999]],
    [1.5, [0.995, 0.9995, 0.9995]],
  ] as const) {
    const spectrum = Array.from({ length: 96 }, (_, j) => (j + 1) ** -decay);
    const gradient = matrixWithSpectrum(96, 160, spectrum, 'decay', decay);
    const best = spectrum.slice(0, rank).reduce((sum, s) => sum + s * s, 0);
    const captured = [0, 1, 2].map((power_iterations) => {
      const plan = refreshPlan({ ...SKETCH, power_iterations });
      const basis = refreshBasis(slot, [{ weight: 1, value: gradient }], plan, 1)!;
      return squaredNorm(referenceProject(gradient, basis, 'left')) / best;
    });
    captured.forEach((share, q) =>
      t.true(share > atLeast[q]! && share < 1 + 1e-6, `${decay}, q ${q}: ${share}`),
    );
    t.true(captured[0]! < captured[1]! && captured[1]! < captured[2]! + 1e-9);
  }
});

// E |A - QQ'A|_F <= (1 + r / (p - 1))^(1/2) (sum_{j > r} s_j^2)^(1/2) for the whole sketch, q = 0.
test('the residual of the sketch stays within the bound of Halko, Martinsson and Tropp', (t) => {
  const [m, n, rank, oversample] = [60, 80, 12, 8];
  const spectrum = Array.from({ length: m }, (_, j) => (j + 1) ** -0.5);
  const gradient = matrixWithSpectrum(m, n, spectrum, 'bound');
  const tail = spectrum.slice(rank).reduce((sum, s) => sum + s * s, 0);
  const slot = projectedSlot(m, n, 'left', rank + oversample);
  const plan = refreshPlan({ type: 'sketch', oversample: 0, power_iterations: 0 });
  let mean = 0;
  for (let seed = 0; seed < 10; seed++) {
    const basis = refreshBasis(slot, [{ weight: 1, value: gradient }], plan, 1, seed)!;
    const captured = squaredNorm(referenceProject(gradient, basis, 'left'));
    mean += Math.sqrt(squaredNorm(gradient) - captured) / 10;
  }
  t.true(mean <= Math.sqrt(1 + rank / (oversample - 1)) * Math.sqrt(tail), `${mean}`);
});

test('a basis from what was projected before never leaves its span', (t) => {
  // Why a refresh takes fresh full gradients: PP'G has no part outside span(P), whatever G is.
  const gradient = randomMatrix(20, 30, 'stagnation');
  const slot = projectedSlot(20, 30, 'left', 4);
  const value = randomMatrix(20, 30, 'other');
  const old = refreshBasis(slot, [{ weight: 1, value }], refreshPlan(SKETCH), 1)!;
  const pseudo = multiply(old, referenceProject(gradient, old, 'left'));
  const next = refreshBasis(slot, [{ weight: 1, value: pseudo }], refreshPlan(SKETCH), 2)!;
  const overlap = referenceProject(next, old, 'left');
  t.true(Math.abs(squaredNorm(overlap) - 4) < 1e-5); // |P_old' P_new|^2 = r: the same span
});

test('a warm start leaves round 1 out where there is a basis; its rounds are those of a cold start', (t) => {
  const warm = refreshPlan({ ...SKETCH, warm_start: true });
  t.is(firstRound(warm, true), 2);
  t.is(firstRound(warm, false), 1);
  t.is(firstRound(refreshPlan(SKETCH), true), 1);
  const slot = projectedSlot(50, 40, 'right', 4);
  for (const round of [1, 2, 3]) {
    t.deepEqual(sketchPlan(slot, round, warm), sketchPlan(slot, round, refreshPlan(SKETCH)));
  }
});

test('a warm start and held-out columns need a second round', (t) => {
  for (const options of [{ ...SKETCH, power_iterations: 0 }, EXACT, { ...SKETCH, type: 'dct' as const }]) {
    t.throws(() => refreshPlan({ ...options, warm_start: true }), { message: /a warm start needs/ });
  }
  t.throws(() => refreshPlan({ ...SKETCH, power_iterations: 0, held_out_columns: 8 }), {
    instanceOf: RangeError,
    message: /an adaptive rank needs/,
  });
  t.is(refreshPlan({ ...EXACT, held_out_columns: 8 }).heldOutColumns, 0); // all of the energy is there
});

test('the factor of a warm start is the old basis and fresh signs, the same on every trainer', (t) => {
  const slot = projectedSlot(6, 9, 'left', 2);
  const old = Float32Array.from({ length: 12 }, (_, i) => i / 16); // [6, 2]
  const start = warmStart(7, 201, slot, old, 6, 5);
  const [kept, fresh] = splitColumns(start, 6, 2);
  t.deepEqual(kept, old);
  t.true(fresh.every((sign) => Math.abs(sign) === 1));
  t.deepEqual(warmStart(7, 201, slot, old, 6, 5), start);
  t.notDeepEqual(warmStart(7, 401, slot, old, 6, 5), start);
  t.deepEqual(
    warmStart(7, 201, slot, old, 6, 1),
    Float32Array.of(0, 2, 4, 6, 8, 10).map((x) => x / 16),
  );
});

test('the last round alone has the held-out columns, in the sketch and not in the factor', (t) => {
  const plan = refreshPlan({ ...SKETCH, held_out_columns: 5 });
  const slot = projectedSlot(50, 40, 'left', 4);
  const [first, , last] = [1, 2, 3].map((round) => sketchPlan(slot, round, plan));
  t.deepEqual(first, { ...sketchPlan(slot, 1, refreshPlan(SKETCH)) });
  t.like(last, { sketchShape: [50, 17], factorShape: [40, 12], heldOutColumns: 5 });
  t.notDeepEqual(heldOut(7, 201, slot, 40, 5), omega(7, 201, slot, 40, 5)); // independent of the sketch
});

test('dct takes one round of its own number of columns, on the side of the basis', (t) => {
  const plan = refreshPlan({ type: 'dct', oversample: 8, power_iterations: 1, dct_columns: 16 });
  t.like(sketchPlan(projectedSlot(50, 40, 'right', 4), 1, plan), {
    side: 'columns',
    sketchShape: [40, 16],
    factorShape: [50, 16],
    isOmega: true,
    isFinal: true,
  });
});

test('columns that were joined are split into what they were', (t) => {
  const sizes = fc.record({ rows: fc.nat(6), a: fc.nat(5), b: fc.nat(5) });
  fc.assert(
    fc.property(sizes, ({ rows, a, b }) => {
      const first = signMatrix(derive(1), rows, a);
      const second = signMatrix(derive(2), rows, b).map((x) => 3 * x);
      t.deepEqual(splitColumns(joinColumns(first, second, rows), rows, a), [first, second]);
    }),
  );
  t.deepEqual(
    joinColumns(Float32Array.of(1, 2), Float32Array.of(3, 4, 5, 6), 2),
    Float32Array.of(1, 3, 4, 2, 5, 6),
  );
});

// The subspace turns by a fifth of a right angle between two refreshes; the spectrum is slow.
test('a warm start with two rounds is nearly as good as a cold one with three, far better than the old basis', (t) => {
  const spectrum = Array.from({ length: 64 }, (_, j) => (j + 1) ** -0.75);
  const [gradient, drift] = ['now', 'drift'].map((label) => matrixWithSpectrum(64, 96, spectrum, label));
  const before = weightedSum([
    { weight: 0.95, value: gradient! },
    { weight: 0.31, value: drift! },
  ]);
  const best = spectrum.slice(0, 12).reduce((sum, s) => sum + s * s, 0);
  for (const side of ['left', 'right'] as const) {
    const slot = projectedSlot(64, 96, side, 12);
    const cold = refreshPlan(SKETCH);
    const warm = refreshPlan({ ...SKETCH, warm_start: true });
    const old = refreshBasis(slot, [{ weight: 1, value: before }], cold, 1)!;
    const terms = [{ weight: 1, value: gradient! }];
    const share = (basis: typeof old): number => squaredNorm(referenceProject(gradient!, basis, side)) / best;
    const [fromOld, fromCold, fromWarm] = [
      share(old),
      share(refreshBasis(slot, terms, cold, 2)!),
      share(refreshBasis(slot, terms, warm, 2, 7, old)!),
    ];
    t.true(fromWarm > 0.99 && fromWarm > fromOld + 0.03, `${side}: ${fromOld}, ${fromWarm}`);
    t.true(fromWarm > fromCold - 0.005, `${side}: ${fromCold}, ${fromWarm}`);
  }
});

test('a warm start leaves a basis behind that has nothing of the gradient', (t) => {
  const gradient = matrixWithSpectrum(40, 30, [5, 4, 3, 2, 1], 'moved');
  const slot = projectedSlot(40, 30, 'left', 5);
  const plan = refreshPlan({ ...SKETCH, warm_start: true });
  const unit = matrix(40, 5, unitBasis(slot));
  const basis = refreshBasis(slot, [{ weight: 1, value: gradient }], plan, 1, 7, unit)!;
  const captured = squaredNorm(referenceProject(gradient, basis, 'left')) / squaredNorm(gradient);
  t.true(Math.abs(captured - 1) < 1e-6, `${captured}`);
});
