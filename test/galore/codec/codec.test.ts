import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { GaloreError, ProtocolError } from '../../../src/errors.ts';
import {
  codecFor,
  codecOfPayload,
  codecOfWire,
  MIN_QUANTISED_COUNT,
  wireOfCodec,
  type CodecName,
} from '../../../src/galore/codec/codec.ts';
import { chunk, CHUNK, INT8_BLOCK } from '../../../src/galore/codec/kernels.ts';
import { CLOSE_CODES } from '../../../src/protocol/close-codes.ts';
import { derive, randomNormal, randomUniform } from '../../../src/random.ts';
import { galore } from '#messages';

const KEY = derive(1, 'codec');
const NAMES: readonly CodecName[] = ['f32', 'int8'];
const MAX_F32 = (2 - 2 ** -23) * 2 ** 127;

const floats = fc.float32Array({
  noNaN: true,
  noDefaultInfinity: true,
  minLength: 0,
  maxLength: 700,
  min: Math.fround(-1e30),
  max: Math.fround(1e30),
});

function normals(count: number, label: string, scale: number = 1): Float32Array {
  const key = derive(2, label);
  return Float32Array.from({ length: count }, (_, i) => scale * randomNormal(key, i));
}

function throwsMalformed(t: ExecutionContext, body: () => unknown, message: RegExp): void {
  const error = t.throws(body, { instanceOf: ProtocolError, message });
  t.is(error?.closeCode, CLOSE_CODES.MALFORMED_MESSAGE.code);
}

/** int8 again, straight from its definition. */
function int8Plainly(values: Float32Array): { scales: number[]; codes: number[] } {
  const scales: number[] = [];
  const codes: number[] = [];
  for (let start = 0; start < values.length; start += 256) {
    const block = [...values.subarray(start, start + 256)];
    const scale = Math.fround(Math.max(...block.map(Math.abs)) / 127);
    scales.push(scale);
    block.forEach((x, i) => {
      const code = scale === 0 ? 0 : Math.floor(x / scale + randomUniform(KEY, start + i));
      codes.push(Math.min(127, Math.max(-127, code)));
    });
  }
  return { scales, codes };
}

test('names and wire numbers match the protocol', (t) => {
  const { Codec } = galore.v1;
  t.is(wireOfCodec('f32'), Codec.CODEC_F32);
  t.is(wireOfCodec('int8'), Codec.CODEC_INT8);
  for (const name of NAMES) {
    t.is(codecFor(name).name, name);
    t.is(codecOfWire(wireOfCodec(name)), name);
  }
  for (const unknown of [0, 3, -1, 1.5, NaN]) {
    throwsMalformed(t, () => codecOfWire(unknown), /codec .* is not known/);
  }
});

test('payloads under 4096 numbers travel as f32 whatever is configured', (t) => {
  t.is(MIN_QUANTISED_COUNT, 4096);
  t.is(codecOfPayload(4095, 'int8'), 'f32');
  t.is(codecOfPayload(4096, 'int8'), 'int8');
  t.is(codecOfPayload(4096, 'f32'), 'f32');
});

test('f32 returns every number as it was', (t) => {
  const codec = codecFor('f32');
  fc.assert(
    fc.property(floats, (values) => {
      const bytes = codec.encode(values, KEY);
      t.deepEqual(codec.decode(bytes, values.length), values);
      return bytes.length === codec.encodedBytes(values.length);
    }),
  );
  t.deepEqual([...codec.encode(Float32Array.of(1), KEY)], [0, 0, 0x80, 0x3f]); // little-endian
});

test('int8 is the scales, then the codes, as defined', (t) => {
  for (const count of [1, 255, 256, 257, 1000, CHUNK + 300]) {
    const values = normals(count, `plain ${count}`);
    const { scales, codes } = int8Plainly(values);
    const bytes = codecFor('int8').encode(values, KEY);
    t.is(bytes.length, 4 * Math.ceil(count / 256) + count);
    t.is(bytes.length, codecFor('int8').encodedBytes(count));
    const view = new DataView(bytes.buffer);
    scales.forEach((scale, i) => t.is(view.getFloat32(4 * i, true), scale));
    t.deepEqual([...new Int8Array(bytes.buffer, 4 * scales.length)], codes);
    const decoded = codecFor('int8').decode(bytes, count);
    codes.forEach((code, i) => t.is(decoded[i], Math.fround(code * scales[Math.floor(i / 256)]!)));
  }
});

test('int8 of numbers over the whole range of f32, and of tiny ones, is as defined', (t) => {
  const lowest = 2 ** -126;
  const key = derive(3, 'range');
  const values = Float32Array.from({ length: 256 * 60 }, (_, i) => {
    const exponent = -149 + 4.6 * Math.floor(i / 256);
    return randomNormal(key, i) * 2 ** Math.min(exponent, 125);
  });
  const { scales, codes } = int8Plainly(values);
  const bytes = codecFor('int8').encode(values, KEY);
  const found = new Float32Array(bytes.buffer, 0, scales.length);
  const foundCodes = new Int8Array(bytes.buffer, 4 * scales.length);
  scales.forEach((scale, block) => {
    const isLost = scale < lowest;
    t.is(found[block], isLost ? 0 : scale);
    const [start, end] = [256 * block, 256 * (block + 1)];
    const want = isLost ? codes.slice(start, end).fill(0) : codes.slice(start, end);
    t.deepEqual([...foundCodes.subarray(start, end)], want);
  });
});

test('int8 is wrong by less than a scale, block by block', (t) => {
  fc.assert(
    fc.property(floats, fc.nat(0xffffffff), (values, seed) => {
      const codec = codecFor('int8');
      const decoded = codec.decode(codec.encode(values, derive(seed)), values.length);
      for (let start = 0; start < values.length; start += INT8_BLOCK) {
        const block = values.subarray(start, start + INT8_BLOCK);
        const largest = block.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
        const scale = Math.max(largest / 127, 2 ** -126 * 127); // blocks of tiny numbers become zeros
        block.forEach((x, i) => t.true(Math.abs(decoded[start + i]! - x) <= scale * (1 + 1e-6)));
      }
    }),
  );
  t.pass();
});

test('int8 never emits -128', (t) => {
  for (let seed = 0; seed < 50; seed++) {
    const values = Float32Array.from({ length: 1024 }, (_, i) =>
      i % 3 === 0 ? -1 / (1 + seed) : -0.999 / (1 + seed),
    );
    const bytes = codecFor('int8').encode(values, derive(seed));
    t.true(new Int8Array(bytes.buffer, 4 * 4).every((code) => code >= -127));
  }
});

test('equal keys give equal bytes, other keys others', (t) => {
  const values = normals(5000, 'keys');
  const codec = codecFor('int8');
  t.deepEqual(codec.encode(values, derive(1, 'a', 7)), codec.encode(values, derive(1, 'a', 7)));
  t.notDeepEqual(codec.encode(values, derive(1, 'a', 7)), codec.encode(values, derive(1, 'a', 8)));
});

// The mean of n draws of one number has variance s^2 f (1 - f) / n, f the fraction of x / s. Summed over
// independent numbers, the squared z-scores are chi-squared with `count` degrees of freedom.
test('stochastic rounding is unbiased', (t) => {
  const [count, draws] = [512, 1000];
  const values = normals(count, 'unbiased');
  const codec = codecFor('int8');
  const sums = chunk.sums.fill(0).subarray(0, count);
  let scales: Float32Array = new Float32Array();
  for (let draw = 0; draw < draws; draw++) {
    const bytes = codec.encode(values, derive(draw, 'draw'));
    scales = new Float32Array(bytes.buffer.slice(0, 8));
    codec.open(bytes, count).accumulate(0, 1 / draws);
  }
  let chiSquared = 0;
  let used = 0;
  let meanError = 0;
  values.forEach((x, i) => {
    const scale = scales[Math.floor(i / 256)]!;
    const fraction = x / scale - Math.floor(x / scale);
    const variance = (scale * scale * fraction * (1 - fraction)) / draws;
    meanError += (sums[i]! - x) / scale / count;
    if (fraction * (1 - fraction) * draws < 10) return; // too few of one outcome for a normal law
    chiSquared += (sums[i]! - x) ** 2 / variance;
    used++;
  });
  t.true(Math.abs(chiSquared - used) < 4 * Math.sqrt(2 * used), `${chiSquared} of ${used}`);
  t.true(Math.abs(meanError) < 4 * Math.sqrt(1 / 6 / draws / count), `${meanError}`);
});

test('the relative error of Gaussian numbers is one per cent', (t) => {
  const values = normals(65536, 'gaussian');
  const codec = codecFor('int8');
  const decoded = codec.decode(codec.encode(values, KEY), values.length);
  let error = 0;
  let norm = 0;
  values.forEach((x, i) => {
    error += (decoded[i]! - x) ** 2;
    norm += x * x;
  });
  const relative = Math.sqrt(error / norm);
  t.true(relative > 0.0095 && relative < 0.0105, `${relative}`);
});

test('zero blocks stay zero and blocks beside them are not touched by them', (t) => {
  const values = normals(768, 'zero block');
  values.fill(0, 256, 512);
  const decoded = codecFor('int8').decode(codecFor('int8').encode(values, KEY), 768);
  t.true(decoded.subarray(256, 512).every((x) => x === 0));
  t.true(decoded.subarray(0, 256).some((x) => x !== 0) && decoded.subarray(512).some((x) => x !== 0));
});

test('the largest and the smallest numbers of f32 are encoded without overflow', (t) => {
  const codec = codecFor('int8');
  const huge = codec.decode(codec.encode(Float32Array.of(MAX_F32, -MAX_F32, 1), KEY), 3);
  t.true(Math.abs(huge[0]! / MAX_F32 - 1) < 0.01 && Math.abs(huge[1]! / MAX_F32 + 1) < 0.01);
  t.deepEqual(codec.decode(codec.encode(Float32Array.of(1e-45, -1e-40, 0), KEY), 3), new Float32Array(3));
});

test('NaN and infinities are refused by name when encoding', (t) => {
  for (const name of NAMES) {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const values = normals(600, 'bad');
      values[300] = bad;
      const error = t.throws(() => codecFor(name).encode(values, KEY), {
        instanceOf: GaloreError,
        message: /number 300 of 600 is/,
      });
      t.is(error?.code, 'ERR_GALORE_NOT_FINITE');
    }
  }
});

test('input is not changed, and may be a view at any offset', (t) => {
  const whole = normals(1001, 'view');
  const copy = whole.slice();
  const view = whole.subarray(1, 901);
  for (const name of NAMES) {
    t.deepEqual(codecFor(name).encode(view, KEY), codecFor(name).encode(view.slice(), KEY));
  }
  t.deepEqual(whole, copy);
});

test('memory that was used before makes no difference to bytes or numbers', (t) => {
  const values = normals(CHUNK + 1001, 'again');
  for (const name of NAMES) {
    const codec = codecFor(name);
    const want = codec.encode(values, KEY);
    const dirty = (length: number) => new Uint8Array(length + 8).fill(0xa5).subarray(4, length + 4);
    t.deepEqual(codec.encode(values, KEY, dirty(want.length)), want);
    const writer = codec.writer(values.length, KEY, dirty(want.length));
    for (let start = 0; start < values.length; start += CHUNK) {
      const part = values.subarray(start, start + CHUNK);
      chunk.values.set(part);
      writer.write(start, part.length);
    }
    t.deepEqual(writer.bytes, want);
    const into = new Float32Array(values.length + 5).fill(9);
    t.deepEqual(codec.decode(want, values.length, into), codec.decode(want, values.length));
  }
});

test('bytes at any alignment decode alike, whole and in ranges', (t) => {
  const values = normals(1000, 'aligned');
  for (const name of NAMES) {
    const codec = codecFor(name);
    const bytes = codec.encode(values, KEY);
    const want = codec.decode(bytes, 1000);
    for (const offset of [1, 2, 3]) {
      const frame = new Uint8Array(bytes.length + offset);
      frame.set(bytes, offset);
      const view = frame.subarray(offset);
      t.deepEqual(codec.decode(view, 1000), want);
      codec.check(view, 1000);
      for (const [start, end] of [
        [0, 1000],
        [0, 0],
        [255, 257],
        [100, 900],
        [999, 1000],
      ] as const) {
        const out = new Float32Array(1000);
        codec.decodeRange(view, 1000, start, end, out);
        t.deepEqual(out.subarray(0, end - start), want.subarray(start, end));
        const wide = new Float64Array(1000);
        codec.decodeRange(view, 1000, start, end, wide);
        t.deepEqual(Float32Array.from(wide.subarray(0, end - start)), want.subarray(start, end));
      }
      const wide = new Float64Array(1000);
      codec.decodeRange(view, 1000, 0, 1000, wide);
      chunk.sums.fill(1);
      codec.open(view, 1000).accumulate(0, 0.5);
      t.true(chunk.sums.subarray(0, 1000).every((sum, i) => Math.abs(sum - 1 - 0.5 * wide[i]!) < 1e-15));
    }
  }
});

test('no numbers are no bytes', (t) => {
  for (const name of NAMES) {
    const codec = codecFor(name);
    t.is(codec.encode(new Float32Array(), KEY).length, 0);
    t.is(codec.decode(new Uint8Array(), 0).length, 0);
  }
});

test('a wrong length is malformed, and says what it should be', (t) => {
  for (const name of NAMES) {
    const codec = codecFor(name);
    const bytes = codec.encode(normals(300, 'length'), KEY);
    for (const wrong of [bytes.subarray(1), new Uint8Array(bytes.length + 1), new Uint8Array()]) {
      const message = new RegExp(`300 numbers as ${name} take ${bytes.length} bytes, not ${wrong.length}`);
      throwsMalformed(t, () => codec.decode(wrong, 300), message);
      throwsMalformed(t, () => codec.open(wrong, 300), message);
      throwsMalformed(t, () => codec.check(wrong, 300), message);
      throwsMalformed(t, () => codec.decodeRange(wrong, 300, 0, 1, new Float32Array(1)), message);
    }
  }
});

test('a scale that is negative, not finite or would overflow is malformed', (t) => {
  const codec = codecFor('int8');
  for (const scale of [NaN, Infinity, -Infinity, -1, 3e38]) {
    const bytes = codec.encode(normals(300, 'scale'), KEY);
    new DataView(bytes.buffer).setFloat32(4, scale, true);
    throwsMalformed(t, () => codec.open(bytes, 300), /scale of block 1 is/);
    throwsMalformed(t, () => codec.check(bytes, 300), /scale of block 1 is/);
    throwsMalformed(t, () => codec.decode(bytes, 300), /scale of block 1 is/);
  }
});

test('f32 bytes that are not finite numbers are malformed', (t) => {
  const codec = codecFor('f32');
  for (const bad of [NaN, Infinity, -Infinity]) {
    const bytes = codec.encode(normals(9, 'f32'), KEY);
    new DataView(bytes.buffer).setFloat32(4 * 7, bad, true);
    throwsMalformed(t, () => codec.decode(bytes, 9), /number 7 of 9 is/);
    throwsMalformed(t, () => codec.check(bytes, 9), /number 7 of 9 is/);
  }
});

test('random bytes decode to finite numbers or are malformed, nothing else', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...NAMES),
      fc.uint8Array({ maxLength: 700 }),
      fc.nat(700),
      fc.boolean(),
      (name, bytes, guess, isFitting) => {
        const codec = codecFor(name);
        let count = guess;
        if (isFitting) while (count > 0 && codec.encodedBytes(count) > bytes.length) count--;
        const fitted = isFitting ? bytes.subarray(0, codec.encodedBytes(count)) : bytes;
        try {
          const values = codec.decode(fitted, count);
          return values.length === count && values.every(Number.isFinite);
        } catch (error) {
          return error instanceof ProtocolError && error.closeCode === CLOSE_CODES.MALFORMED_MESSAGE.code;
        }
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});
