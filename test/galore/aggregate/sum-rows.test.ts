import test from 'ava';
import { sumEncoded } from '../../../src/galore/aggregate/mean.ts';
import { sumRows } from '../../../src/galore/aggregate/sum-rows.ts';
import { CODEC_NAMES, codecFor } from '../../../src/galore/codec/codec.ts';
import { encodeRows, scatterRows } from '../../../src/galore/rows.ts';
import type { RowSparseSlot } from '../../../src/galore/slot.ts';
import { derive, randomNormal } from '../../../src/random.ts';

const SHAPE = [50, 33] as const;
const SLOT: RowSparseSlot = {
  ...{ name: 'model.embed_tokens.weight', shape: SHAPE, index: 0 },
  ...{ policy: 'row-sparse', rule: 'adamw', mostRows: 50 },
};
const ROWS = [[3, 7, 40], [], [0, 7, 8, 49], [7, 40]];
const WEIGHTS = [0.3, 0.2, 0.4, 0.1];

test('the sum of rows is, bit for bit, that of the matrices they are rows of', (t) => {
  for (const name of CODEC_NAMES) {
    const codec = codecFor(name);
    const parts = ROWS.map((rows, p) => {
      const key = derive(8, p);
      const values = Float32Array.from({ length: 33 * rows.length }, (_, i) => randomNormal(key, i));
      return { bytes: encodeRows(name, Uint32Array.from(rows), values, key), codec, weight: WEIGHTS[p]! };
    });
    const whole = parts.map(({ bytes, weight }) => {
      const matrix = scatterRows(SLOT, name, bytes, new Float32Array(50 * 33));
      return { bytes: new Uint8Array(matrix.buffer), codec: codecFor('f32'), weight };
    });
    const want = sumEncoded(whole, 50 * 33);
    const { rows, values, squaredNorm } = sumRows(SLOT, parts);
    t.deepEqual([...rows], [0, 3, 7, 8, 40, 49]);
    const bytes = encodeRows('f32', rows, values, derive(0));
    t.deepEqual(scatterRows(SLOT, 'f32', bytes, new Float32Array(50 * 33)), want.sum);
    t.true(Math.abs(squaredNorm / want.squaredNorm - 1) < 1e-12);
  }
});

test('without parts, or with empty ones, there are no rows', (t) => {
  const empty = encodeRows('int8', new Uint32Array(0), new Float32Array(0), derive(0));
  for (const parts of [[], [{ bytes: empty, codec: codecFor('int8'), weight: 1 }]]) {
    t.deepEqual(sumRows(SLOT, parts), {
      rows: new Uint32Array(0),
      values: new Float32Array(0),
      squaredNorm: 0,
    });
  }
});
