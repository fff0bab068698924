import test from 'ava';
import fc from 'fast-check';
import { matrix, multiply, transpose, type Matrix } from '../../../src/galore/matrix.ts';
import { plainFactoriser } from '../../../src/galore/projection/factorise.ts';
import {
  adaptiveBasis,
  selectRank,
  type RankOptions,
} from '../../../src/galore/projection/rank-selection.ts';
import { heldOut } from '../../../src/galore/projection/sketch.ts';
import { matrixWithSpectrum, orthonormalMatrix, projectedSlot, squaredNorm } from '../matrices.ts';

const OPTIONS: RankOptions = { threshold: 0.1, minRank: 1, maxRank: 100, multiple: 1 };

// Energies 6, 3, 1 and nothing else: rank 1 leaves out 4/10, rank 2 leaves out 1/10, rank 3 nothing.
test('the smallest rank is taken whose rest is within the threshold', (t) => {
  const rankAt = (threshold: number, rest = 0): number =>
    selectRank([6, 3, 1], rest, { ...OPTIONS, threshold }).rank;
  t.deepEqual(
    [0.5, 0.4, 0.39, 0.1, 0.09, 0].map((threshold) => rankAt(threshold)),
    [1, 1, 2, 2, 3, 3],
  );
  t.deepEqual(selectRank([6, 3, 1], 0, OPTIONS), { rank: 2, isThresholdMet: true, residualShare: 0.1 });
  // 10 more that no vector captures: the rest never falls below one half.
  t.deepEqual(selectRank([6, 3, 1], 10, OPTIONS), { rank: 3, isThresholdMet: false, residualShare: 0.5 });
});

test('bounds and multiple hold, and a rank cut off by the upper bound says that it is', (t) => {
  const energies = [6, 3, 1, 0, 0, 0, 0, 0, 0, 0];
  const select = (options: Partial<RankOptions>): unknown => {
    const { rank, isThresholdMet } = selectRank(energies, 0, { ...OPTIONS, ...options });
    return [rank, isThresholdMet];
  };
  t.deepEqual(select({ minRank: 5 }), [5, true]);
  t.deepEqual(select({ maxRank: 1 }), [1, false]);
  t.deepEqual(select({ multiple: 4 }), [4, true]);
  t.deepEqual(select({ multiple: 4, minRank: 5 }), [8, true]);
  t.deepEqual(select({ multiple: 8, maxRank: 6 }), [6, true]); // not a multiple: the bound goes first
  t.deepEqual(select({ multiple: 8, minRank: 9 }), [10, true]); // no more than there are
});

test('a zero spectrum takes the lower bound and leaves nothing out', (t) => {
  t.deepEqual(selectRank([0, 0, 0], 0, { ...OPTIONS, minRank: 2 }), {
    rank: 2,
    isThresholdMet: true,
    residualShare: 0,
  });
});

test('a stricter threshold never gives a lower rank, and one rank less would not do', (t) => {
  const spectra = fc.array(fc.double({ min: 0, max: 10, noNaN: true }), { minLength: 1, maxLength: 12 });
  const threshold = fc.double({ min: 0, max: 1, noNaN: true });
  fc.assert(
    fc.property(spectra, threshold, threshold, (values, a, b) => {
      const energies = values.toSorted((x, y) => y - x);
      const [strict, loose] = [Math.min(a, b), Math.max(a, b)].map((eta) =>
        selectRank(energies, 0.1, { ...OPTIONS, threshold: eta }),
      );
      if (strict!.rank < loose!.rank) return false;
      if (strict!.rank === 1) return true;
      const total = energies.reduce((sum, x) => sum + x, 0.1);
      const less = energies.slice(strict!.rank - 1).reduce((sum, x) => sum + x, 0.1);
      return less >= Math.min(a, b) * total * (1 - 1e-12);
    }),
  );
  t.pass();
});

/** The last round of a refresh of A with a factor Q and held-out columns; the rank and what it was made from. */
function adaptive(
  a: Matrix,
  factor: Matrix,
  columns: number,
  options: RankOptions,
): ReturnType<typeof adaptiveBasis> {
  const slot = projectedSlot(a.rows, a.cols, 'left', options.maxRank);
  const signs = heldOut(7, 1, slot, a.cols, columns);
  const x = Float32Array.from(multiply(a, factor).values);
  const products = Float32Array.from(multiply(a, matrix(a.cols, columns, signs)).values);
  const vectors = plainFactoriser.singularVectors(x, a.rows, factor.cols, options.maxRank, false)!;
  const values = Float32Array.from(factor.values);
  return adaptiveBasis(vectors, x, a.rows, { products, signs, factor: values, columns }, options);
}

/** What one power iteration makes of A: an orthonormal `[cols, width]`. */
function powerFactor(a: Matrix, width: number): Matrix {
  const start = orthonormalMatrix(a.cols, width, 'start');
  const orth = (x: Matrix): Matrix =>
    matrix(x.rows, x.cols, plainFactoriser.orthonormalise(Float32Array.from(x.values), x.rows, x.cols));
  return orth(multiply(transpose(a), orth(multiply(a, start))));
}

for (const decay of [0.5, 0.75, 1, 1.5]) {
  test(`the rank from a sketch is within a tenth of the exact one, spectrum j^-${decay}`, (t) => {
    const spectrum = Array.from({ length: 96 }, (_, j) => (j + 1) ** -decay);
    const a = matrixWithSpectrum(96, 128, spectrum, 'adaptive', decay);
    const factor = powerFactor(a, 80);
    for (const threshold of [0.6, 0.4, 0.2, 0.1, 0.05]) {
      const options = { ...OPTIONS, threshold, maxRank: 72 };
      const exact = selectRank(
        spectrum.slice(0, 72).map((s) => s * s),
        tail(spectrum, 72),
        options,
      );
      const found = adaptive(a, factor, 8, options);
      const error = Math.abs(found.rank - exact.rank);
      t.true(error <= Math.max(1, 0.1 * exact.rank), `eta ${threshold}: ${found.rank}, not ${exact.rank}`);
      t.is(found.basis.length, 96 * found.rank);
    }
  });
}

function tail(spectrum: readonly number[], from: number): number {
  return spectrum.slice(from).reduce((sum, s) => sum + s * s, 0);
}

test('the estimated energy is unbiased: its mean over many held-out columns is the energy', (t) => {
  const spectrum = Array.from({ length: 24 }, (_, j) => (j + 1) ** -0.25); // most of it outside the sketch
  const a = matrixWithSpectrum(24, 32, spectrum, 'unbiased');
  const options = { ...OPTIONS, threshold: 0, maxRank: 6 };
  const { basis, residualShare } = adaptive(a, powerFactor(a, 8), 4000, options);
  const left = matrix(24, 6, basis);
  const captured = squaredNorm(multiply(transpose(left), a)) / squaredNorm(a);
  t.true(Math.abs(1 - residualShare - captured) < 0.01, `${1 - residualShare}, not ${captured}`);
});

test('without held-out columns the sum is the whole gradient', (t) => {
  const a = matrixWithSpectrum(10, 16, [3, 2, 1, 0.5], 'whole'); // energies 9, 4, 1, 1/4 of 14.25
  const x = Float32Array.from(a.values);
  const vectors = plainFactoriser.singularVectors(x, 10, 16, 3, false)!;
  const at = (threshold: number): number =>
    adaptiveBasis(vectors, x, 10, null, { ...OPTIONS, threshold, maxRank: 3 }).rank;
  t.deepEqual([0.4, 0.3, 0.1, 0.05].map(at), [1, 2, 2, 3]); // left out: .368, .088, .018
  const tight = adaptiveBasis(vectors, x, 10, null, { ...OPTIONS, threshold: 0.01, maxRank: 3 });
  t.false(tight.isThresholdMet);
  t.true(Math.abs(tight.residualShare - 0.25 / 14.25) < 1e-6);
});
