import test from 'ava';
import fc from 'fast-check';
import { TensorShapeError } from '../../../src/errors.ts';
import { matrix, multiply, transpose } from '../../../src/galore/matrix.ts';
import { gaussianBasis, randomBasis } from '../../../src/galore/projection/random-basis.ts';
import { orthonormalityError } from '../matrices.ts';

const HASH_START = 0x811c9dc5;
const PINNED = { random: 3732115588, gaussian: 2160165789 };

/** FNV-1a over the bits of the numbers. */
function hashOf(values: Float32Array): number {
  let hash = HASH_START;
  for (const byte of new Uint8Array(values.buffer)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

test('a random basis is orthonormal, whatever its shape', (t) => {
  const shapes = fc.tuple(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 30 }), fc.nat(1000));
  fc.assert(
    fc.property(shapes, ([a, b, seed]) => {
      const [rows, rank] = [Math.max(a, b), Math.min(a, b)];
      return orthonormalityError(matrix(rows, rank, randomBasis(seed, 1, 2, rows, rank))) < 1e-6;
    }),
  );
  t.throws(() => randomBasis(1, 1, 1, 3, 4), { instanceOf: TensorShapeError });
});

test('seed, step and slot each give another basis; together they always give the same', (t) => {
  for (const make of [randomBasis, gaussianBasis]) {
    const basis = make(1, 2, 3, 12, 4);
    t.deepEqual(make(1, 2, 3, 12, 4), basis);
    for (const other of [make(2, 2, 3, 12, 4), make(1, 3, 3, 12, 4), make(1, 2, 4, 12, 4)]) {
      t.notDeepEqual(other, basis);
    }
  }
});

test('the bits are these, on every machine', (t) => {
  t.is(hashOf(randomBasis(1, 201, 3, 40, 12)), PINNED.random);
  t.is(hashOf(gaussianBasis(1, 201, 3, 40, 12)), PINNED.gaussian);
});

// E[PP'] = (r / d) I: no direction is preferred. 400 bases: standard error of a diagonal entry about 0.01.
test('on average a random basis takes the same share of every direction', (t) => {
  const sum = matrix(8, 8);
  for (let step = 0; step < 400; step++) {
    const basis = matrix(8, 2, randomBasis(3, step, 0, 8, 2));
    multiply(basis, transpose(basis)).values.forEach((x, i) => (sum.values[i] = sum.values[i]! + x / 400));
  }
  for (let i = 0; i < 8; i++) {
    for (let j = 0; j < 8; j++) {
      t.true(Math.abs(sum.values[i * 8 + j]! - (i === j ? 0.25 : 0)) < 0.05);
    }
  }
});

test("a Gaussian basis has variance 1 / rank, so that PP' is the identity on average", (t) => {
  const basis = gaussianBasis(3, 1, 0, 500, 10);
  const variance = basis.reduce((sum, x) => sum + x * x, 0) / basis.length;
  t.true(Math.abs(variance - 0.1) < 0.008, `${variance}`);
});
