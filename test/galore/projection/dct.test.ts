import test from 'ava';
import fc from 'fast-check';
import { matrix, multiply, transpose } from '../../../src/galore/matrix.ts';
import { dctColumns, dctEnergies, selectDctColumns } from '../../../src/galore/projection/dct.ts';
import { signMatrix } from '../../../src/galore/projection/sketch.ts';
import { derive } from '../../../src/random.ts';
import { maxDifference, orthonormalityError, randomMatrix, squaredNorm } from '../matrices.ts';

/** D: all columns. */
function dctMatrix(n: number): Float32Array {
  return dctColumns(n, [...Array(n).keys()]);
}

// n = 2: constant (1, 1) / sqrt(2), then half a wave cos(pi/4), cos(3 pi/4) = (1, -1) / sqrt(2).
// n = 3: columns (1, 1, 1) / sqrt(3), (1, 0, -1) / sqrt(2), (1, -2, 1) / sqrt(6).
test('the transforms of length 2 and 3 are those of the textbook', (t) => {
  const h = Math.SQRT1_2;
  t.true(maxDifference(matrix(2, 2, dctMatrix(2)), matrix(2, 2, [h, h, h, -h])) < 1e-7);
  const [a, b, c] = [3, 2, 6].map((x) => 1 / Math.sqrt(x));
  const want = [a!, b!, c!, a!, 0, -2 * c!, a!, -b!, c!];
  t.true(maxDifference(matrix(3, 3, dctMatrix(3)), matrix(3, 3, want)) < 1e-7);
});

test('the columns are orthonormal, for every length', (t) => {
  for (const n of [1, 2, 5, 16, 33, 48]) t.true(orthonormalityError(matrix(n, n, dctMatrix(n))) < 1e-6);
});

test('entries that mirror each other are equal to the last bit', (t) => {
  const n = 24;
  const d = dctMatrix(n);
  for (let j = 0; j < n; j++) {
    for (let k = 0; k < n; k++) {
      t.is(Math.abs(d[j * n + k]!), Math.abs(d[(n - 1 - j) * n + k]!));
    }
  }
});

test('a basis is the columns of the whole transform with its numbers', (t) => {
  const whole = dctMatrix(12);
  const basis = dctColumns(12, [0, 3, 11]);
  for (let j = 0; j < 12; j++) {
    t.deepEqual(
      [...basis.subarray(j * 3, j * 3 + 3)],
      [0, 3, 11].map((k) => whole[j * 12 + k]!),
    );
  }
  for (const k of [-1, 12, 1.5]) t.throws(() => dctColumns(12, [k]), { message: /no column of 0 to 11/ });
});

test('energies are those of the product with the transform, for even, odd and mixed lengths', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 4 }), (n, columns) => {
      const x = Float32Array.from(randomMatrix(n, columns, n, columns).values);
      const product = multiply(transpose(matrix(n, n, dctMatrix(n))), matrix(n, columns, x));
      return dctEnergies(x, n).every((energy, k) => {
        const want = squaredNorm(matrix(1, columns, product.values.slice(k * columns, (k + 1) * columns)));
        return Math.abs(energy - want) < 1e-4 * (1 + want);
      });
    }),
  );
  t.pass();
});

test('the columns a gradient is made of are found from its sketch', (t) => {
  const columns = [1, 4, 17, 30];
  const basis = matrix(32, 4, dctColumns(32, columns));
  const gradient = multiply(basis, randomMatrix(4, 50, 'coefficients'));
  const sketch = multiply(gradient, matrix(50, 8, signMatrix(derive(1), 50, 8)));
  t.deepEqual(selectDctColumns(Float32Array.from(sketch.values), 32, 4), columns);
});

// Energies of column k fall like (k + 1)^-1.5; the exact choice of 16 of 64 is the first 16.
test('a sketch of 32 columns chooses nearly as well as the whole gradient', (t) => {
  const coefficients = randomMatrix(64, 200, 'falling');
  coefficients.values.forEach((x, i) => {
    coefficients.values[i] = x * (Math.floor(i / 200) + 1) ** -0.75;
  });
  const gradient = multiply(matrix(64, 64, dctMatrix(64)), coefficients);
  const whole = dctEnergies(Float32Array.from(gradient.values), 64);
  const sketch = multiply(gradient, matrix(200, 32, signMatrix(derive(2), 200, 32)));
  const chosen = selectDctColumns(Float32Array.from(sketch.values), 64, 16)!;
  const energyOf = (columns: readonly number[]): number => columns.reduce((sum, k) => sum + whole[k]!, 0);
  const best = energyOf([...whole.keys()].sort((a, b) => whole[b]! - whole[a]!).slice(0, 16));
  t.true(energyOf(chosen) > 0.97 * best, `${energyOf(chosen) / best}`);
});

test('ties go to the lower number, a zero sketch chooses nothing, and bad ones are refused', (t) => {
  const one = Float32Array.of(1, 0); // equal parts of both columns
  t.deepEqual(selectDctColumns(one, 2, 1), [0]);
  t.is(selectDctColumns(new Float32Array(8), 4, 2), null);
  t.throws(() => selectDctColumns(Float32Array.of(1, NaN), 2, 1), { instanceOf: RangeError });
  t.throws(() => selectDctColumns(one, 2, 3), { message: /2 columns, not 3/ });
});
