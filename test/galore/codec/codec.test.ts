import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { GaloreError, ProtocolError } from '../../../src/errors.ts';
import { bf16Bits, bf16Number } from '../../../src/galore/codec/bf16-number.ts';
import { CODEC_NAMES, codecFor, codecOfPayload, type CodecName } from '../../../src/galore/codec/codec.ts';
import {
  chunk,
  CHUNK,
  INT4_FORMAT,
  INT8_FORMAT,
  type WireFormat,
} from '../../../src/galore/codec/kernels.ts';
import { quantiseLinear, restoreLinear } from '../../../src/galore/codec/linear.ts';
import type { PlainSlot } from '../../../src/galore/slot.ts';
import { NUMBER_CODECS } from '../../../src/protocol/enums.ts';
import { CLOSE_CODES } from '../../../src/protocol/close-codes.ts';
import { derive, randomNormal, randomUniform } from '../../../src/random.ts';
import { galore } from '#messages';

const KEY = derive(1, 'codec');
const NAMES = ['f32', 'bf16', 'int8', 'int4'] as const satisfies readonly CodecName[];
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

function relativeError(values: Float32Array, decoded: Float32Array): number {
  let error = 0;
  let norm = 0;
  values.forEach((x, i) => {
    error += (decoded[i]! - x) ** 2;
    norm += x * x;
  });
  return Math.sqrt(error / norm);
}

/**
 * How far the means of n draws are from the numbers. The mean of one number has variance s^2 f (1 - f) / n, f the
 * fraction of x / s. Summed over independent numbers, the squared z-scores are chi-squared with `used` degrees of
 * freedom. `meanError` is in scales.
 */
function biasOf(values: Float32Array, means: Float64Array, scaleOf: (i: number) => number, draws: number) {
  let chiSquared = 0;
  let used = 0;
  let meanError = 0;
  values.forEach((x, i) => {
    const scale = scaleOf(i);
    const fraction = x / scale - Math.floor(x / scale);
    const variance = (scale * scale * fraction * (1 - fraction)) / draws;
    meanError += (means[i]! - x) / scale / values.length;
    if (fraction * (1 - fraction) * draws < 10) return; // too few of one outcome for a normal law
    chiSquared += (means[i]! - x) ** 2 / variance;
    used++;
  });
  return { chiSquared, used, meanError };
}

const FORMATS = [
  ['int8', INT8_FORMAT],
  ['int4', INT4_FORMAT],
] as const;

/** The bytes of int8 or int4 by the plain version of linear.ts, with the dice of KEY. */
function encodePlainly(values: Float32Array, format: WireFormat): Uint8Array {
  const { codes, scales } = quantiseLinear(values, format, (i) => randomUniform(KEY, i));
  if (format.bits === 8) {
    return Uint8Array.of(...new Uint8Array(scales.buffer), ...new Uint8Array(codes.buffer));
  }
  const upper = scales.reduce<number[]>((all, x) => [...all, bf16Bits(x) & 0xff, bf16Bits(x) >>> 8], []);
  const pairs = Array.from({ length: Math.ceil(codes.length / 2) }, (_, i) => {
    return (codes[2 * i]! & 0x0f) | ((codes[2 * i + 1] ?? 0) << 4);
  });
  return Uint8Array.of(...upper, ...pairs);
}

/** Numbers over the whole range of f32, blocks of 64 of about the same size, and what is lost at its lower end. */
function wholeRange(): Float32Array {
  const key = derive(3, 'range');
  return Float32Array.from({ length: 256 * 60 + 77 }, (_, i) => {
    const exponent = -149 + 4.6 * Math.floor(i / 256);
    return randomNormal(key, i) * 2 ** Math.min(exponent, 125);
  });
}

test('names and wire numbers match the protocol', (t) => {
  const { Codec } = galore.v1;
  t.deepEqual(NUMBER_CODECS, {
    f32: Codec.CODEC_F32,
    bf16: Codec.CODEC_BF16,
    int8: Codec.CODEC_INT8,
    int4: Codec.CODEC_INT4,
  });
  t.deepEqual(Object.keys(NUMBER_CODECS), [...NAMES]);
  t.deepEqual(CODEC_NAMES, NAMES);
  for (const name of NAMES) t.is(codecFor(name).name, name);
});

test('vectors, and payloads under 256 numbers, travel as f32 whatever is configured', (t) => {
  t.is(codecOfPayload(slotOf(15, 17), 1, 'int8'), 'f32');
  t.is(codecOfPayload(slotOf(16, 16), 1, 'int8'), 'int8');
  t.is(codecOfPayload(slotOf(64, 64), 1, 'f32'), 'f32');
  t.is(codecOfPayload(slotOf(4096), 1, 'int4'), 'f32');
});

test('with moments behind it a payload travels as f32 if that is configured, else as the run has chosen for moments', (t) => {
  const averaged = { moments: [{ kind: 'v', period: 3 }], codec: 'bf16' } as const;
  const codecs = (configured: CodecName, codec: 'f32' | 'bf16', slot = slotOf(16, 16)) =>
    [1, 2, 3].map((step) => codecOfPayload({ ...slot, averaged: { ...averaged, codec } }, step, configured));
  t.deepEqual(codecs('int8', 'bf16'), ['int8', 'int8', 'bf16']);
  t.deepEqual(codecs('int4', 'f32'), ['int4', 'int4', 'f32']);
  t.deepEqual(codecs('f32', 'bf16'), ['f32', 'f32', 'f32']);
  t.deepEqual(codecs('bf16', 'f32'), ['bf16', 'bf16', 'f32']);
  t.deepEqual(codecs('int8', 'bf16', slotOf(300)), ['f32', 'f32', 'f32']);
});

function slotOf(...shape: number[]): PlainSlot {
  return { name: 'q_proj', index: 0, shape, policy: 'dense', rule: 'outer', inner: 'adamw' };
}

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

for (const [name, format] of FORMATS) {
  const codec = codecFor(name);

  test(`${name} has the bytes of the plain version, at every count and over the whole range of f32`, (t) => {
    const cases = [1, 2, 63, 64, 65, 255, 256, 257, 1001, CHUNK, CHUNK + 301];
    for (const values of [...cases.map((count) => normals(count, `plain ${count}`)), wholeRange()]) {
      const bytes = codec.encode(values, KEY);
      t.is(bytes.length, codec.encodedBytes(values.length));
      t.deepEqual(bytes, encodePlainly(values, format));
      const plain = quantiseLinear(values, format, (i) => randomUniform(KEY, i));
      const want = restoreLinear(plain, format).map((x) => x + 0); // -0 becomes 0
      t.deepEqual(codec.decode(bytes, values.length), want);
    }
  });

  test(`${name} is wrong by less than a scale, block by block`, (t) => {
    fc.assert(
      fc.property(floats, fc.nat(0xffffffff), (values, seed) => {
        const decoded = codec.decode(codec.encode(values, derive(seed)), values.length);
        for (let start = 0; start < values.length; start += format.block) {
          const block = values.subarray(start, start + format.block);
          const largest = block.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
          // Blocks of tiny numbers become zeros; a bf16 scale is rounded up by less than 2^-7.
          const scale = Math.max(largest / format.largest, 2 ** -126 * format.largest);
          const least = format.scale === 'bf16' ? scale * (1 + 2 ** -7) : scale * (1 + 1e-6);
          block.forEach((x, i) => t.true(Math.abs(decoded[start + i]! - x) <= least));
        }
      }),
    );
    t.pass();
  });

  test(`${name}: stochastic rounding is unbiased`, (t) => {
    const [count, draws] = [512, 1000];
    const values = normals(count, 'unbiased');
    const { scales } = quantiseLinear(values, format);
    const sums = chunk.sums.fill(0).subarray(0, count);
    for (let draw = 0; draw < draws; draw++) {
      codec.open(codec.encode(values, derive(draw, 'draw')), count).accumulate(0, 1 / draws);
    }
    const { chiSquared, used, meanError } = biasOf(
      values,
      sums,
      (i) => scales[Math.floor(i / format.block)]!,
      draws,
    );
    t.true(used > 300 && Math.abs(chiSquared - used) < 4 * Math.sqrt(2 * used), `${chiSquared} of ${used}`);
    t.true(Math.abs(meanError) < 4 * Math.sqrt(1 / 6 / draws / count), `${meanError}`);
  });
}

test('bf16 is the nearest of its numbers, of two the even one, little-endian', (t) => {
  const codec = codecFor('bf16');
  const exact = Float32Array.of(1, -2.5, 0, 2 ** -133, -(2 ** 127));
  t.deepEqual(codec.decode(codec.encode(exact, KEY), 5), exact);
  t.deepEqual([...codec.encode(Float32Array.of(1), KEY)], [0x80, 0x3f]);
  const step = 2 ** -7; // from 1 to the next number
  const between = Float32Array.of(1 + step / 2, 1 + step * 1.5, 1 + step * 0.51, -1 - step * 0.49);
  t.deepEqual([...codec.decode(codec.encode(between, KEY), 4)], [1, 1 + 2 * step, 1 + step, -1]);
  for (const values of [wholeRange(), normals(CHUNK + 301, 'bf16')]) {
    const bytes = codec.encode(values, KEY);
    t.is(bytes.length, 2 * values.length);
    const found = new Uint16Array(bytes.buffer);
    t.deepEqual(found, Uint16Array.from(values, bf16Bits));
    t.deepEqual(codec.decode(bytes, values.length), Float32Array.from(found, bf16Number));
    const wrong = codec.decode(bytes, values.length).map((x, i) => Math.abs(x - values[i]!));
    t.true(wrong.every((error, i) => error <= 2 ** -8 * Math.max(Math.abs(values[i]!), 2 ** -126)));
  }
});

test('bf16 of numbers beyond its largest is its largest', (t) => {
  const codec = codecFor('bf16');
  const largest = (2 - 2 ** -7) * 2 ** 127;
  t.deepEqual(
    [...codec.decode(codec.encode(Float32Array.of(MAX_F32, -MAX_F32), KEY), 2)],
    [largest, -largest],
  );
});

test('bf16 bytes that are not finite numbers are malformed', (t) => {
  const codec = codecFor('bf16');
  for (const bad of [0x7f80, 0xff80, 0x7fc1]) {
    const bytes = codec.encode(normals(CHUNK + 9, 'bf16'), KEY);
    new DataView(bytes.buffer).setUint16(2 * (CHUNK + 7), bad, true);
    throwsMalformed(t, () => codec.decode(bytes, CHUNK + 9), /number 8199 of 8201 is not finite/);
    throwsMalformed(t, () => codec.check(bytes, CHUNK + 9), /number 8199 of 8201 is not finite/);
  }
});

test('int4 never emits -8, refuses it, and refuses anything in the half byte that is left over', (t) => {
  const codec = codecFor('int4');
  for (let seed = 0; seed < 50; seed++) {
    const values = Float32Array.from({ length: 1023 }, (_, i) => (i % 3 === 0 ? -1 : -0.999) / (1 + seed));
    codec.check(codec.encode(values, derive(seed)), 1023);
  }
  const values = normals(2 * CHUNK + 301, 'minus eight');
  const codesAt = 2 * Math.ceil(values.length / 64);
  const count = values.length;
  for (const number of [0, 1, 5, CHUNK - 1, CHUNK, 2 * CHUNK + 299, count - 1]) {
    const bytes = codec.encode(values, KEY);
    const at = codesAt + Math.floor(number / 2);
    bytes[at] = number % 2 === 0 ? (bytes[at]! & 0xf0) | 8 : (bytes[at]! & 0x0f) | 0x80;
    const message = new RegExp(`number ${number} of ${count} has code -8, not -7 to 7`);
    throwsMalformed(t, () => codec.check(bytes, count), message);
    throwsMalformed(t, () => codec.decode(bytes, count), message);
  }
  const bytes = codec.encode(values, KEY);
  bytes[bytes.length - 1]! |= 0x10;
  throwsMalformed(t, () => codec.check(bytes, count), /the last half byte of 16685 numbers as int4 is not 0/);
});

test('int4 keeps gradients that f16 scales would lose', (t) => {
  const values = normals(4096, 'tiny', 1e-12);
  const decoded = codecFor('int4').decode(codecFor('int4').encode(values, KEY), 4096);
  const relative = relativeError(values, decoded);
  t.true(relative < 0.17, `${relative}`);
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
  for (const [name] of FORMATS) {
    const codec = codecFor(name);
    t.deepEqual(codec.encode(values, derive(1, 'a', 7)), codec.encode(values, derive(1, 'a', 7)));
    t.notDeepEqual(codec.encode(values, derive(1, 'a', 7)), codec.encode(values, derive(1, 'a', 8)));
  }
});

test('the relative errors of Gaussian numbers are those of algorithms 7.4', (t) => {
  // Stochastic rounding: 0.0100 in blocks of 256 with 8 bits, 0.153 in blocks of 64 with 4; of the rounded-up scale
  // at most a 128th more.
  const bounds = {
    f32: [0, 0],
    bf16: [0.0014, 0.0019],
    int8: [0.0095, 0.0105],
    int4: [0.148, 0.16],
  } as const;
  for (const name of NAMES) {
    const values = normals(65536, 'gaussian');
    const codec = codecFor(name);
    const relative = relativeError(values, codec.decode(codec.encode(values, KEY), values.length));
    const [least, most] = bounds[name];
    t.true(relative >= least && relative <= most, `${name} ${relative}`);
  }
});

test('bytes and numbers go where they are asked to, beside what is there', (t) => {
  const values = normals(1001, 'into');
  for (const name of NAMES) {
    const codec = codecFor(name);
    const want = codec.encode(values, KEY);
    const buffer = new Uint8Array(want.length + 12).fill(7);
    const into = buffer.subarray(4, 4 + want.length);
    t.is(codec.encode(values, KEY, into), into);
    t.deepEqual([...buffer.subarray(0, 4), ...buffer.subarray(4 + want.length)], Array(12).fill(7));
    t.deepEqual(into, want);
    const numbers = new Float32Array(1003).fill(7);
    const decoded = codec.decode(want, 1001, numbers);
    t.is(decoded.buffer, numbers.buffer);
    t.deepEqual(decoded, codec.decode(want, 1001));
    t.deepEqual([...numbers.subarray(1001)], [7, 7]);
  }
});

for (const [name] of FORMATS)
  test(`${name}: zero blocks stay zero and blocks beside them are not touched by them`, (t) => {
    const values = normals(768, 'zero block');
    values.fill(0, 256, 512);
    const decoded = codecFor(name).decode(codecFor(name).encode(values, KEY), 768);
    t.true(decoded.subarray(256, 512).every((x) => x === 0));
    t.true(decoded.subarray(0, 256).some((x) => x !== 0) && decoded.subarray(512).some((x) => x !== 0));
  });

test('the largest and the smallest numbers of f32 are encoded without overflow', (t) => {
  for (const [name] of FORMATS) {
    const codec = codecFor(name);
    const huge = codec.decode(codec.encode(Float32Array.of(MAX_F32, -MAX_F32, 1), KEY), 3);
    t.true(Math.abs(huge[0]! / MAX_F32 - 1) < 0.01 && Math.abs(huge[1]! / MAX_F32 + 1) < 0.01);
    t.deepEqual(codec.decode(codec.encode(Float32Array.of(1e-45, -1e-40, 0), KEY), 3), new Float32Array(3));
  }
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
  for (const scale of [NaN, Infinity, -Infinity, -1, 3e38])
    for (const [name, format] of FORMATS) {
      const codec = codecFor(name);
      const bytes = codec.encode(normals(300, 'scale'), KEY);
      const view = new DataView(bytes.buffer);
      if (format.scale === 'bf16')
        view.setUint16(2, new Uint16Array(Float32Array.of(scale).buffer)[1]!, true);
      else view.setFloat32(4, scale, true);
      throwsMalformed(t, () => codec.open(bytes, 300), /scale of block 1 is/);
      throwsMalformed(t, () => codec.check(bytes, 300), /scale of block 1 is/);
      throwsMalformed(t, () => codec.decode(bytes, 300), /scale of block 1 is/);
    }
});

test('a number whose square or sum may not be finite is taken from nobody', (t) => {
  for (const name of NAMES) {
    const codec = codecFor(name);
    const values = new Float32Array(300).fill(1e-3);
    values[257] = 0.9e18;
    const good = codec.encode(values, KEY);
    t.notThrows(() => codec.check(good, 300), name);
    values[257] = -2e18;
    const bad = codec.encode(values, KEY);
    t.notThrows(() => codec.decode(bad, 300));
    const error = t.throws(() => codec.check(bad, 300), { instanceOf: ProtocolError });
    t.is(error?.closeCode, CLOSE_CODES.INVALID_CONTRIBUTION.code);
    t.regex(
      error?.message ?? '',
      /(number 257 of 300|block \d .*) is -?\d+; allowed: a magnitude of at most 1000000000000000000$/,
    );
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
