import test from 'ava';
import fc from 'fast-check';
import {
  quantiseSigned,
  quantiseSquares,
  restoreSigned,
  restoreSquares,
  type BlockCodes,
} from '../../../src/galore/optimizer/block-quantiser.ts';
import { STATE_BLOCK } from '../../../src/galore/optimizer/rule-state.ts';
import { derive, randomNormal } from '../../../src/random.ts';

const MAX_F32 = (2 - 2 ** -23) * 2 ** 127;

const signed = fc.float32Array({
  noNaN: true,
  noDefaultInfinity: true,
  minLength: 1,
  maxLength: 700,
  min: Math.fround(-1e30),
  max: Math.fround(1e30),
});

function normals(count: number, label: string): Float32Array {
  const key = derive(3, label);
  return Float32Array.from({ length: count }, (_, i) => randomNormal(key, i));
}

function largestOf(values: Float32Array, start: number): number {
  return values
    .subarray(start, start + STATE_BLOCK)
    .reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
}

test('codes of a small block by hand', (t) => {
  // Scale 127^2 / 127^2 = 1: 127^2 is code 127, -16 is -4 squared, 20 is nearest to 4 squared (4.47), 0 is 0.
  const codes = quantiseSigned(Float32Array.of(16129, -16, 20, 0));
  t.deepEqual(codes, { codes: Uint8Array.of(127, 252, 4, 0), scales: Float32Array.of(1) });
  t.deepEqual(restoreSigned(codes), Float32Array.of(16129, -16, 16, 0));
  // Roots 255^2, 9 and 0.01 with scale 1: codes 255, 3 and (not 0, since V is not) 1, which is 1 squared.
  const squares = quantiseSquares(Float32Array.of(65025 ** 2, 81, 0.0001, 0));
  t.deepEqual(squares, { codes: Uint8Array.of(255, 3, 1, 0), scales: Float32Array.of(1) });
  t.deepEqual(restoreSquares(squares), Float32Array.of(65025 ** 2, 81, 1, 0));
});

test('bytes and scales of zero are the number zero, and zeros are those bytes', (t) => {
  for (const count of [1, 255, 256, 257, 5000]) {
    const blank: BlockCodes = {
      codes: new Uint8Array(count),
      scales: new Float32Array(Math.ceil(count / 256)),
    };
    t.deepEqual(restoreSigned(blank), new Float32Array(count));
    t.deepEqual(restoreSquares(blank), new Float32Array(count));
    t.deepEqual(quantiseSigned(new Float32Array(count)), blank);
    t.deepEqual(quantiseSquares(new Float32Array(count)), blank);
  }
});

// With q = 127 sqrt(|x| / largest) the code is within 1/2 of q, so x is off by (q^2 - (q +- 1/2)^2) scale
// = (q + 1/4) scale at most.
test('signed numbers are off by half a code at most, and keep their sign', (t) => {
  fc.assert(
    fc.property(signed, (values) => {
      const restored = restoreSigned(quantiseSigned(values));
      return values.every((x, i) => {
        const largest = largestOf(values, i - (i % STATE_BLOCK));
        const scale = largest / 127 ** 2;
        const q = scale === 0 ? 0 : Math.sqrt(Math.abs(x) / scale);
        const bound = scale < 2 ** -126 ? Math.abs(x) : (q + 0.25) * scale * (1 + 1e-4);
        return Math.abs(restored[i]! - x) <= bound && restored[i]! * x >= 0;
      });
    }),
  );
  t.pass();
});

test('roots of second moments are off by half a code at most, and none that is there becomes zero', (t) => {
  fc.assert(
    fc.property(signed, (values) => {
      const squares = values.map((x) => Math.min(MAX_F32, x * x));
      const restored = restoreSquares(quantiseSquares(squares));
      const roots = squares.map(Math.sqrt);
      return squares.every((square, i) => {
        const largest = largestOf(roots, i - (i % STATE_BLOCK));
        const scale = largest / 255 ** 2;
        if (scale < 2 ** -126) return restored[i] === 0;
        const q = Math.sqrt(roots[i]! / scale);
        const bound = Math.max(q + 0.25, 1) * scale * (1 + 1e-4); // 1: the least code
        const isThere = square === 0 || restored[i]! > 0 || scale ** 2 < 2 ** -140; // its square underflows
        return Math.abs(Math.sqrt(restored[i]!) - roots[i]!) <= bound && isThere;
      });
    }),
  );
  t.pass();
});

test('codes of restored numbers are the same codes', (t) => {
  const first = quantiseSigned(normals(3000, 'again'));
  t.deepEqual(quantiseSigned(restoreSigned(first)).codes, first.codes);
  const second = quantiseSquares(normals(3000, 'again').map((x) => x * x));
  t.deepEqual(quantiseSquares(restoreSquares(second)).codes, second.codes);
});

test('blocks do not touch each other', (t) => {
  const values = normals(768, 'blocks');
  const alone = restoreSigned(quantiseSigned(values.slice(256, 512)));
  values.fill(1e20, 0, 256);
  values.fill(0, 512);
  const restored = restoreSigned(quantiseSigned(values));
  t.deepEqual(restored.subarray(256, 512), alone);
  t.true(restored.subarray(512).every((x) => x === 0));
});

test('the largest and the smallest numbers of f32 are coded without overflow', (t) => {
  const huge = restoreSigned(quantiseSigned(Float32Array.of(MAX_F32, -MAX_F32, 1)));
  t.true(huge.every(Number.isFinite));
  t.true(Math.abs(huge[0]! / MAX_F32 - 1) < 1e-6 && Math.abs(huge[1]! / MAX_F32 + 1) < 1e-6);
  t.true(restoreSquares(quantiseSquares(Float32Array.of(MAX_F32, 1))).every(Number.isFinite));
  t.deepEqual(restoreSigned(quantiseSigned(Float32Array.of(1e-45, -1e-40))), new Float32Array(2));
});

test('Gaussian numbers are off by less than one per cent in the mean', (t) => {
  const values = normals(65536, 'gaussian');
  const relative = (restored: Float32Array, exact: Float32Array): number => {
    const error = restored.reduce((sum, x, i) => sum + (x - exact[i]!) ** 2, 0);
    return Math.sqrt(error / exact.reduce((sum, x) => sum + x * x, 0));
  };
  const m = relative(restoreSigned(quantiseSigned(values)), values);
  const roots = restoreSquares(quantiseSquares(values.map((x) => x * x))).map(Math.sqrt);
  const v = relative(roots, values.map(Math.abs));
  t.log(`signed ${m.toFixed(5)}, roots ${v.toFixed(5)}`);
  t.true(m < 0.01 && v < 0.005, `${m} ${v}`);
});
