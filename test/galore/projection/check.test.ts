import test from 'ava';
import { BASIS_TOLERANCE, checkBasis } from '../../../src/galore/projection/check.ts';
import { derive } from '../../../src/random.ts';
import { orthonormalMatrix } from '../matrices.ts';

const KEY = derive(1, 'check');

function goodBasis(): Float32Array {
  return Float32Array.from(orthonormalMatrix(50, 12, 'basis').values);
}

test('an orthonormal basis passes, far below the tolerance', (t) => {
  t.is(checkBasis(goodBasis(), 50, 12, KEY), null);
  t.is(checkBasis(goodBasis(), 50, 12, KEY, 1e-6), null);
  t.true(BASIS_TOLERANCE > 1e-6);
});

test('a number that is not finite is named with its place', (t) => {
  for (const bad of [NaN, Infinity, -Infinity]) {
    const basis = goodBasis();
    basis[2 * 12 + 5] = bad;
    t.regex(checkBasis(basis, 50, 12, KEY)!, /element \[2, 5\] is (NaN|-?Infinity)/);
  }
});

test('columns that are not orthonormal are refused with the deviation', (t) => {
  const scaled = goodBasis().map((x) => 1.01 * x);
  t.regex(checkBasis(scaled, 50, 12, KEY)!, /not orthonormal: .* is 2\.\d\de-2 .* above 1\.00e-4/);
  const repeated = goodBasis().map((x, i, all) => (i % 12 === 3 ? all[i - 1]! : x));
  t.regex(checkBasis(repeated, 50, 12, KEY)!, /not orthonormal/);
  t.regex(checkBasis(new Float32Array(600), 50, 12, KEY)!, /is 1\.00e\+0/);
  t.regex(checkBasis(new Float32Array(600).fill(3e38), 50, 12, KEY)!, /not orthonormal/);
});

test('one damaged entry is found', (t) => {
  const basis = goodBasis();
  basis[100] = basis[100]! + 0.01;
  t.regex(checkBasis(basis, 50, 12, KEY)!, /not orthonormal/);
});

test('a wrong size and more columns than rows are refused', (t) => {
  t.regex(checkBasis(goodBasis(), 50, 11, KEY)!, /600 elements, not 50 x 11 = 550/);
  t.regex(checkBasis(new Float32Array(600), 12, 50, KEY)!, /50 columns of 12 elements/);
});
