import { access, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { DataError } from '../../src/errors.ts';
import { createSafetensors, openSafetensors } from '../../src/files/safetensors.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { f32, rawSafetensors, safetensorsOf } from './safetensors-samples.ts';

test('what was written in pieces and out of order is read back', async (t) => {
  const path = join(temporaryDir(t), 'a.safetensors');
  const shapes = [
    { name: 'w', dtype: 'F32' as const, shape: [2, 3] },
    { name: 'b', dtype: 'F32' as const, shape: [2] },
    { name: 'scalar', dtype: 'F32' as const, shape: [] },
    { name: 'empty', dtype: 'F32' as const, shape: [0, 7] },
  ];
  const writer = await createSafetensors(path, shapes, { format: 'pt' });
  await writer.write('scalar', 0, f32(9));
  await writer.write('w', 8, f32(3, 4, 5, 6));
  await writer.write('b', 0, f32(7, 8));
  await writer.write('w', 0, f32(1, 2));
  await writer.finish();

  const file = await openSafetensors(path);
  t.deepEqual([...file.tensors.keys()].sort(), ['b', 'empty', 'scalar', 'w']);
  t.deepEqual(file.metadata, { format: 'pt' });
  t.deepEqual(await file.readFloat32('w'), new Float32Array([1, 2, 3, 4, 5, 6]));
  t.deepEqual(await file.readFloat32('b'), new Float32Array([7, 8]));
  t.deepEqual(await file.readFloat32('scalar'), new Float32Array([9]));
  t.is((await file.readFloat32('empty')).length, 0);
  t.deepEqual(Buffer.from(await file.readBytes('w', 4, 8)), f32(2, 3));
  t.is(Buffer.from((await file.readBytes('w', 4, 8)).buffer).length, 8);
  await file.close();
});

test('the data of a written file begin at a multiple of 8', async (t) => {
  const path = join(temporaryDir(t), 'a.safetensors');
  const writer = await createSafetensors(path, [{ name: 'x', shape: [1] }], { note: 'é' });
  await writer.write('x', 0, f32(1));
  await writer.finish();
  const bytes = await readFile(path);
  t.is(bytes.readUInt32LE(0) % 8, 0);
  t.is(bytes.length, 8 + bytes.readUInt32LE(0) + 4);
});

test('a file is not finished while bytes are missing', async (t) => {
  const path = join(temporaryDir(t), 'a.safetensors');
  const writer = await createSafetensors(path, [{ name: 'x', shape: [4] }], {});
  await writer.write('x', 0, f32(1));
  await writer.write('x', 8, f32(3, 4));
  await t.throwsAsync(writer.finish(), {
    instanceOf: DataError,
    message: /tensor x is not complete: byte 4 of 16/,
  });
  await writer.write('x', 4, f32(2));
  await writer.finish();
  await writer.abandon();
  await access(path);
  t.pass();
});

test('an abandoned file is gone', async (t) => {
  const path = join(temporaryDir(t), 'a.safetensors');
  const writer = await createSafetensors(path, [{ name: 'x', shape: [1] }], {});
  await writer.abandon();
  await writer.abandon();
  await t.throwsAsync(access(path), { code: 'ENOENT' });
});

test('writes outside a tensor and impossible tensors are refused', async (t) => {
  const dir = temporaryDir(t);
  const writer = await createSafetensors(join(dir, 'a'), [{ name: 'x', shape: [2] }], {});
  t.teardown(() => writer.abandon());
  for (const offset of [-4, 1, 8, 0.5, NaN, Infinity]) {
    await t.throwsAsync(writer.write('x', offset, f32(1, 2)), { instanceOf: RangeError });
  }
  await t.throwsAsync(writer.write('y', 0, f32(1)), { instanceOf: RangeError, message: /tensor y/ });
  const twice = [
    { name: 'x', shape: [1] },
    { name: 'x', shape: [1] },
  ];
  await t.throwsAsync(createSafetensors(join(dir, 'b'), twice, {}), { instanceOf: RangeError });
  await t.throwsAsync(createSafetensors(join(dir, 'b'), [{ name: 'x', shape: [-1] }], {}), {
    instanceOf: RangeError,
  });
  await t.throwsAsync(createSafetensors(join(dir, 'b'), [{ name: '__metadata__', shape: [1] }], {}));
});

test('an existing file is not overwritten', async (t) => {
  const path = join(temporaryDir(t), 'a');
  await writeFile(path, 'mine');
  await t.throwsAsync(createSafetensors(path, [], {}), { code: 'ERR_GALORE_OPERATING' });
  t.is(await readFile(path, 'utf8'), 'mine');
});

test('half, bfloat16 and double values are read as float32', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const u16 = (...words: number[]): Buffer => Buffer.from(new Uint16Array(words).buffer);
  // Halves: 1, -2, 65504 (largest), 2^-14 (least normal), 2^-24 (least), 1023 * 2^-24, -0, inf, 1/3.
  const halves = u16(0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x03ff, 0x8000, 0x7c00, 0x3555);
  const file = safetensorsOf([
    { name: 'half', dtype: 'F16', shape: [9], data: halves },
    { name: 'nan', dtype: 'F16', shape: [1], data: u16(0x7e00) },
    { name: 'brain', dtype: 'BF16', shape: [3], data: u16(0x3f80, 0xc049, 0xff80) },
    { name: 'double', dtype: 'F64', shape: [2], data: Buffer.from(new Float64Array([0.1, -1e300]).buffer) },
    { name: 'ids', dtype: 'I64', shape: [1], data: Buffer.alloc(8) },
  ]);
  await writeFile(path, file);
  const source = await openSafetensors(path);
  t.teardown(() => source.close());
  const expected = [1, -2, 65504, 2 ** -14, 2 ** -24, 1023 * 2 ** -24, -0, Infinity, 0.333251953125];
  t.deepEqual(await source.readFloat32('half'), new Float32Array(expected));
  t.true(Number.isNaN((await source.readFloat32('nan'))[0]));
  t.deepEqual(await source.readFloat32('brain'), new Float32Array([1, -3.140625, -Infinity]));
  t.deepEqual(await source.readFloat32('double'), new Float32Array([0.1, -Infinity]));
  await t.throwsAsync(source.readFloat32('ids'), { instanceOf: DataError, message: /ids is I64/ });
  await t.throwsAsync(source.readFloat32('none'), { instanceOf: DataError, message: /has no tensor none/ });
});

test('a conversion of several pieces is whole', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const count = 2.5 * 1024 * 1024;
  const data = Buffer.from(Uint16Array.from({ length: count }, (_, i) => i & 0x7f7f).buffer);
  await writeFile(path, safetensorsOf([{ name: 'x', dtype: 'BF16', shape: [count], data }]));
  const source = await openSafetensors(path);
  t.teardown(() => source.close());
  const words = new Uint32Array((await source.readFloat32('x')).buffer);
  t.is(words.length, count);
  t.true(words.every((word, i) => word === (i & 0x7f7f) << 16));
});

const entry = (fields: object): string =>
  JSON.stringify({ x: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...fields } });
const BAD_HEADERS: readonly (readonly [title: string, header: string | Buffer, message: RegExp])[] = [
  ['not JSON', '{"x":', /it is not JSON/],
  ['another bracket', '[]', /does not begin with "\{"/],
  ['bytes that are no UTF-8', Buffer.from('{"\xff":1}', 'latin1'), /it is not UTF-8/],
  ['an entry that is a number', '{"x":1}', /tensor "x": its entry is not an object/],
  ['an unknown dtype', entry({ dtype: 'F33' }), /unknown dtype "F33"/],
  ['a dtype of Object.prototype', entry({ dtype: 'toString' }), /unknown dtype "toString"/],
  ['no shape', entry({ shape: undefined }), /shape undefined is not a list/],
  ['a negative size', entry({ shape: [-2] }), /shape \[-2\] is not a list/],
  ['half a size', entry({ shape: [2.5] }), /is not a list/],
  ['33 dimensions', entry({ shape: Array.from({ length: 33 }, () => 1) }), /at most 32 sizes/],
  ['an overflowing shape', entry({ shape: [2 ** 50, 2 ** 50] }), /too large/],
  ['one offset', entry({ data_offsets: [0] }), /are not two positions/],
  ['offsets the wrong way round', entry({ data_offsets: [8, 0] }), /lie outside/],
  [
    'offsets beyond the file',
    entry({ data_offsets: [0, 16], shape: [4] }),
    /lie outside the 8 bytes of data/,
  ],
  ['too few bytes for the shape', entry({ shape: [3] }), /needs 12 bytes, data_offsets give 8/],
  [
    'bytes of no tensor at the end',
    entry({ shape: [1], data_offsets: [0, 4] }),
    /the last 4 bytes .* belong to no tensor/,
  ],
  [
    'bytes of no tensor at the start',
    entry({ shape: [1], data_offsets: [4, 8] }),
    /bytes 0 to 4 .* belong to no tensor/,
  ],
  [
    'two tensors in the same bytes',
    JSON.stringify({
      a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
      b: { dtype: 'F32', shape: [1], data_offsets: [4, 8] },
    }),
    /tensor "b" overlaps the one before it at byte 4/,
  ],
  [
    'a tensor named twice',
    '{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    /the name "x" is there twice/,
  ],
  ['a size of 2^53', entry({ shape: [2 ** 53] }), /is not a list of at most 32 sizes/],
  ['a size of 2^53 - 1', entry({ shape: [2 ** 53 - 1] }), /shape \[9007199254740991\] is too large/],
  ['a negative offset', entry({ data_offsets: [-8, 0] }), /are not two positions/],
  ['a dtype that takes other bytes', entry({ dtype: 'F64' }), /of F64 needs 16 bytes, data_offsets give 8/],
  ['a list of ten million numbers', `{"x":[${'1,'.repeat(1e7)}1]}`, /more than 8000000 values/],
  ['metadata that is a list', '{"__metadata__":[]}', /__metadata__ is not an object/],
  ['metadata that is a number', '{"__metadata__":{"a":1}}', /__metadata__ "a" is not a string/],
  ['brackets without end', `{"x":${'['.repeat(100_000)}`, /brackets more than 8 deep/],
  ['a name as long as a book', `{"${'x'.repeat(100_000)}":1}`, /^.{0,400}$/s],
];

for (const [title, header, message] of BAD_HEADERS) {
  test(`a header is refused: ${title}`, async (t) => {
    const path = join(temporaryDir(t), 'a');
    await writeFile(path, rawSafetensors(header, Buffer.alloc(8)));
    const error = await t.throwsAsync(openSafetensors(path), { instanceOf: DataError, message });
    t.is(error.path, path);
    t.true(error.message.startsWith(path));
  });
}

test('header lengths that cannot be are refused before anything is read', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const cases: [bigint, RegExp][] = [
    [100_000_001n, /a header of 100000001 bytes, at most 100000000/],
    [2n ** 63n, /a header of 9223372036854776000 bytes/],
    [2n ** 64n - 1n, /a header of 18446744073709552000 bytes/],
    [50n, /cut short: its header has 50 bytes, the file holds 2/],
    [0n, /does not begin with/],
  ];
  for (const [length, message] of cases) {
    const file = Buffer.alloc(10);
    file.writeBigUInt64LE(length);
    await writeFile(path, file);
    await t.throwsAsync(openSafetensors(path), { instanceOf: DataError, message });
  }
});

test('missing files and folders are told apart', async (t) => {
  const dir = temporaryDir(t);
  await t.throwsAsync(openSafetensors(join(dir, 'none')), {
    instanceOf: DataError,
    message: /does not exist/,
  });
  await t.throwsAsync(openSafetensors(dir), { message: /is not a file|it is a directory/ });
});

test('a file cut short at any byte is refused', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const whole = safetensorsOf([{ name: 'x', dtype: 'F32', shape: [2], data: f32(1, 2) }], { format: 'pt' });
  for (let length = 0; length < whole.length; length++) {
    await writeFile(path, whole.subarray(0, length));
    await t.throwsAsync(openSafetensors(path), { instanceOf: DataError });
  }
});

test('a flipped bit anywhere gives a DataError or a table that fits the file', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const whole = safetensorsOf([
    { name: 'x', dtype: 'F32', shape: [2], data: f32(1, 2) },
    { name: 'y', dtype: 'U8', shape: [3], data: Buffer.from([1, 2, 3]) },
  ]);
  for (let bit = 0; bit < 8 * (whole.length - 11); bit++) {
    const flipped = Buffer.from(whole);
    flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
    await writeFile(path, flipped);
    const file = await openSafetensors(path).catch((error: unknown) => error);
    if (file instanceof Error) t.true(file instanceof DataError, String(file));
    else {
      const open = file as Awaited<ReturnType<typeof openSafetensors>>;
      for (const [name, { start, end }] of open.tensors)
        t.is((await open.readBytes(name, 0, end - start)).length, end - start);
      await open.close();
    }
  }
});

test('random bytes never give anything but a DataError', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const anyHeader = fc.oneof(
    fc.json().map((text) => rawSafetensors(text, Buffer.alloc(4))),
    fc
      .dictionary(
        fc.string(),
        fc.record({
          dtype: fc.constantFrom('F32', 'U8', 'x'),
          shape: fc.anything(),
          data_offsets: fc.anything(),
        }),
      )
      .map((header) => rawSafetensors(JSON.stringify(header), Buffer.alloc(4))),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
  );
  const property = fc.asyncProperty(anyHeader, async (bytes) => {
    await writeFile(path, bytes);
    const file = await openSafetensors(path).catch((error: unknown) => error);
    if (file instanceof Error) return file instanceof DataError;
    await (file as { close(): Promise<void> }).close();
    return true;
  });
  await t.notThrowsAsync(fc.assert(property, { numRuns: 300 }));
});

test('a file of 5 GB is read without holding it', async (t) => {
  const path = join(temporaryDir(t), 'huge');
  const count = 1_250_000_000;
  const header = JSON.stringify({ x: { dtype: 'F32', shape: [count], data_offsets: [0, 4 * count] } });
  await writeFile(path, rawSafetensors(header, Buffer.alloc(0)));
  const handle = await open(path, 'r+');
  await handle.truncate(8 + header.length + 4 * count); // sparse: takes no space
  await handle.write(f32(42), 0, 4, 8 + header.length + 4 * (count - 1));
  await handle.close();
  const before = process.memoryUsage().rss;
  const file = await openSafetensors(path);
  t.teardown(() => file.close());
  t.deepEqual(Buffer.from(await file.readBytes('x', 4 * (count - 2), 8)), f32(0, 42));
  t.true(process.memoryUsage().rss - before < 200e6);
});

test('a file that shrinks while it is open is noticed', async (t) => {
  const path = join(temporaryDir(t), 'a');
  const whole = safetensorsOf([{ name: 'x', dtype: 'F32', shape: [2], data: f32(1, 2) }]);
  await writeFile(path, whole);
  const file = await openSafetensors(path);
  t.teardown(() => file.close());
  await writeFile(path, whole.subarray(0, whole.length - 4));
  await t.throwsAsync(file.readFloat32('x'), { instanceOf: DataError, message: /cut short while open/ });
});
