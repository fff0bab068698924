import test from 'ava';
import { quantiseWeight, restoreWeight, WEIGHT_GROUP } from '../../src/galore/int8-weight.ts';
import { derive, randomNormal } from '../../src/random.ts';

function normals(count: number, label: string, deviation = 0.02): Float32Array {
  const key = derive(3, label);
  return Float32Array.from({ length: count }, (_, i) => deviation * randomNormal(key, i));
}

test('codes of a small group by hand', (t) => {
  // Range -1 to 254: scale 1, zero -1. 0.4 is 1.4 above zero, nearest 1; 0.5 is 1.5 above, rounded up to 2.
  const codes = quantiseWeight(Float32Array.of(-1, 254, 0.4, 0.5, 99), null);
  t.deepEqual(codes, {
    codes: Uint8Array.of(0, 255, 1, 2, 100),
    scales: Float32Array.of(1),
    zeros: Float32Array.of(-1),
  });
  t.deepEqual(restoreWeight(codes), Float32Array.of(-1, 254, 0, 1, 99));
});

test('a group of equal numbers is kept exactly, with the least scale', (t) => {
  for (const value of [0, 0.5, -3e-7, 1e30]) {
    const values = new Float32Array(300).fill(value);
    for (const key of [null, derive(1, 'noise')]) {
      const codes = quantiseWeight(values, key);
      t.deepEqual(codes.scales, new Float32Array(2).fill(1e-5 / 255));
      t.deepEqual(restoreWeight(codes), values);
    }
  }
});

for (const count of [1, 255, 256, 257, 512, 700]) {
  test(`${count} numbers: each group has its own scale and zero, and nothing is off by more than a scale`, (t) => {
    // Group by group of another size, so that a number in the wrong group would show.
    const values = normals(count, `edges ${count}`).map((value, i) => value * 10 ** Math.floor(i / 256) + i);
    for (const [key, share] of [
      [null, 0.5],
      [derive(7, 'noise'), 1],
    ] as const) {
      const codes = quantiseWeight(values, key);
      t.is(codes.scales.length, Math.ceil(count / WEIGHT_GROUP));
      t.is(codes.zeros.length, codes.scales.length);
      const restored = restoreWeight(codes);
      for (const [i, value] of values.entries()) {
        const group = Math.floor(i / WEIGHT_GROUP);
        const members = values.subarray(256 * group, 256 * group + 256);
        t.is(codes.zeros[group], Math.min(...members));
        const rounding = 2 ** -23 * Math.abs(value); // of the sum to f32
        t.true(Math.abs(restored[i]! - value) <= share * 1.0001 * codes.scales[group]! + rounding, `${i}`);
      }
    }
  });
}

test('the ends of a group are kept, whatever the dice', (t) => {
  for (let seed = 0; seed < 50; seed++) {
    const values = normals(256, `ends ${seed}`);
    const { codes } = quantiseWeight(values, derive(seed, 'noise'));
    t.is(codes[values.indexOf(Math.min(...values))], 0);
    t.is(codes[values.indexOf(Math.max(...values))], 255);
  }
});

test('rounding at random is right on average (z-test) and differs from key to key', (t) => {
  const rounds = 400;
  const values = normals(1000, 'weights');
  const sums = new Float64Array(values.length);
  const { scales, zeros } = quantiseWeight(values, null);
  for (let round = 0; round < rounds; round++) {
    restoreWeight(quantiseWeight(values, derive(5, 'noise', round))).forEach(
      (value, i) => (sums[i] = sums[i]! + value),
    );
  }
  // A number f of a scale above a code is off by f or 1 - f: variance f (1 - f) scale^2, at most 1/4.
  let chiSquare = 0;
  let total = 0;
  let counted = 0;
  values.forEach((value, i) => {
    const scale = scales[Math.floor(i / WEIGHT_GROUP)]!;
    const zero = zeros[Math.floor(i / WEIGHT_GROUP)]!;
    const at = (value - zero) / scale;
    const fraction = at - Math.floor(at);
    if (fraction < 0.01 || fraction > 0.99) return;
    const z = (sums[i]! / rounds - value) / (scale * Math.sqrt((fraction * (1 - fraction)) / rounds));
    chiSquare += z * z;
    total += z;
    counted += 1;
  });
  t.true(counted > 900);
  t.true(Math.abs(total / Math.sqrt(counted)) < 4, `mean: ${total / Math.sqrt(counted)}`);
  t.true(Math.abs(chiSquare / counted - 1) < 4 * Math.sqrt(2 / counted), `spread: ${chiSquare / counted}`);
});

test('the same key gives the same codes; steps smaller than half a scale are not lost', (t) => {
  const start = normals(256, 'drift');
  const key = derive(1, 'noise');
  t.deepEqual(quantiseWeight(start, key), quantiseWeight(start, key));
  // 200 steps of a twentieth of a scale on every number but the ends: 10 scales.
  const [least, largest] = [Math.min(...start), Math.max(...start)];
  const step = (largest - least) / 255 / 20;
  const walk = (isRandom: boolean): number => {
    let values: Float32Array = start;
    for (let i = 0; i < 200; i++) {
      const moved = values.map((value) => (value === least || value === largest ? value : value + step));
      values = restoreWeight(quantiseWeight(moved, isRandom ? derive(2, 'noise', i) : null));
    }
    return (
      (values.reduce((sum, value) => sum + value, 0) - start.reduce((sum, value) => sum + value, 0)) / 256
    );
  };
  t.true(Math.abs(walk(true) / (200 * step) - 1) < 0.15, `${walk(true) / (200 * step)}`);
  t.true(Math.abs(walk(false) / (200 * step)) < 0.1, 'to the nearest code they would be');
});
