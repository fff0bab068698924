import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DataError } from '../../src/errors.ts';
import { readModelConfig } from '../../src/files/model-config.ts';
import { openModelWeights } from '../../src/files/model-weights.ts';
import { openSafetensors, PIECE_BYTES } from '../../src/files/safetensors.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { f32, safetensorsOf } from './safetensors-samples.ts';
import { TINY_JSON, tinyFolder, tinyTensors, type FileTensor } from './tiny-folder.ts';

const TIED_JSON = { ...TINY_JSON, tie_word_embeddings: true };
const vector = (name: string, ...values: number[]): FileTensor => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  data: f32(...values),
});

/** Opens and reads everything. */
async function readAll(dir: string): Promise<Map<string, Float32Array>> {
  await using weights = await openModelWeights(dir, await readModelConfig(dir));
  const all = new Map<string, Float32Array>();
  for (const spec of weights.specs) all.set(spec.name, await weights.read(spec));
  return all;
}

async function refused(t: ExecutionContext, dir: string, message: RegExp): Promise<void> {
  const error = await t.throwsAsync(readAll(dir), { instanceOf: DataError });
  t.regex(error.message, message);
  t.true(error.message.startsWith(dir));
}

test('the weights of a sound folder are read whole and in pieces alike', async (t) => {
  const dir = tinyFolder(t);
  await using weights = await openModelWeights(dir, await readModelConfig(dir));
  t.is(weights.specs.length, 12);
  for (const spec of weights.specs) {
    const values: number[] = [];
    for await (const piece of weights.pieces(spec)) {
      t.is(piece.first, values.length);
      values.push(...piece.values);
    }
    t.deepEqual(values, [...(await weights.read(spec))]);
  }
});

test('tensors that are missing are named', async (t) => {
  const json = { ...TINY_JSON, num_hidden_layers: 3 };
  await refused(
    t,
    tinyFolder(t, json, tinyTensors()),
    /has no tensor model\.layers\.1\.self_attn\.q_proj\.weight, .* and 15 more; its config\.json asks for them$/,
  );
  await refused(t, tinyFolder(t, TINY_JSON, tinyTensors(TIED_JSON)), /has no tensor lm_head\.weight;/);
});

test('tensors that a Llama does not have are named', async (t) => {
  const bias = vector('model.layers.0.self_attn.q_proj.bias', 1, 2, 3, 4);
  const dir = tinyFolder(t, TINY_JSON, [...tinyTensors(), bias]);
  await refused(t, dir, /holds tensor model\.layers\.0\.self_attn\.q_proj\.bias: .* another model$/);
});

test('the rotary tables that older versions saved are passed over', async (t) => {
  const table = vector('model.layers.0.self_attn.rotary_emb.inv_freq', 1);
  t.is((await readAll(tinyFolder(t, TINY_JSON, [...tinyTensors(), table]))).size, 12);
});

test('another shape of the same size is refused', async (t) => {
  const tensors = tinyTensors().map((tensor) =>
    tensor.name.endsWith('up_proj.weight') ? { ...tensor, shape: [4, 6] } : tensor,
  );
  await refused(
    t,
    tinyFolder(t, TINY_JSON, tensors),
    /up_proj\.weight is \[4, 6\], config\.json asks for \[6, 4\]$/,
  );
});

test('weights that are no floating-point numbers are refused', async (t) => {
  const tensors = tinyTensors().map((tensor) =>
    tensor.name === 'model.norm.weight' ? { ...tensor, dtype: 'I32' } : tensor,
  );
  await refused(
    t,
    tinyFolder(t, TINY_JSON, tensors),
    /model\.norm\.weight is I32, not F32, F16, BF16 or F64$/,
  );
});

test('a head in the file of a tied model must equal the embedding', async (t) => {
  const head = tinyTensors().find(({ name }) => name === 'lm_head.weight')!;
  const tensors = [...tinyTensors(TIED_JSON), head];
  t.false((await readAll(tinyFolder(t, TIED_JSON, tensors))).has('lm_head.weight'));
  head.data[0] = 1;
  await refused(
    t,
    tinyFolder(t, TIED_JSON, tensors),
    /tie_word_embeddings: true, but lm_head\.weight differs/,
  );
});

for (const bad of [NaN, Infinity, -Infinity]) {
  test(`${bad} among the weights is refused with tensor and index`, async (t) => {
    const tensors = tinyTensors();
    const norm = tensors.find(({ name }) => name === 'model.norm.weight')!;
    norm.data = f32(1, 2, bad, bad);
    const dir = tinyFolder(t, TINY_JSON, tensors);
    await refused(t, dir, new RegExp(`model\\.norm\\.weight is ${bad} at index 2, not a finite number$`));
    await using weights = await openModelWeights(dir, await readModelConfig(dir));
    const spec = weights.specs.find(({ name }) => name === 'model.norm.weight')!;
    await t.throwsAsync(weights.pieces(spec).next(), { instanceOf: DataError, message: /at index 2/ });
  });
}

test('a large tensor is converted with one piece of the file in memory', async (t) => {
  const path = join(temporaryDir(t), 'a.safetensors');
  const count = (5 * PIECE_BYTES) / 4; // two pieces and a half of bfloat16
  const data = Buffer.alloc(2 * count, Uint8Array.of(0x80, 0x3f)); // ones
  writeFileSync(path, safetensorsOf([{ name: 'x', dtype: 'BF16', shape: [count], data }]));
  const file = await openSafetensors(path);
  t.teardown(() => file.close());
  const buffers = new Set<ArrayBufferLike>();
  const lengths: number[] = [];
  for await (const { first, values } of file.readPieces('x')) {
    t.is(
      first,
      lengths.reduce((sum, length) => sum + length, 0),
    );
    t.true(values[0] === 1 && values.at(-1) === 1);
    lengths.push(values.length);
    buffers.add(values.buffer);
  }
  t.deepEqual(lengths, [PIECE_BYTES / 2, PIECE_BYTES / 2, PIECE_BYTES / 4]);
  t.is(buffers.size, 1, 'the same memory each time');
});
