/** Exported model folders. Serial: some tests replace the disk for the whole process. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test from 'ava';
import { ConfigError, DataError, OperatingError } from '../../src/errors.ts';
import { trainBpe } from '../../src/files/bpe-trainer.ts';
import { readModelConfig } from '../../src/files/model-config.ts';
import { exportModel, planShards, type ExportRequest } from '../../src/files/model-export.ts';
import { openModelWeights } from '../../src/files/model-weights.ts';
import { openModelFolder } from '../../src/files/model-folder.ts';
import { byteTokenizer } from '../../src/files/tokenizer.ts';
import { FaultyDisk } from '../faulty-disk.ts';
import { f32 } from './safetensors-samples.ts';
import { TINY_JSON, tinyFolder, tinyTensors } from './tiny-folder.ts';

function request(from: string, more: Partial<ExportRequest> = {}): ExportRequest {
  return {
    from,
    out: join(dirname(from), 'out'),
    dtype: 'F32',
    maxShardBytes: 5e9,
    mayReplace: false,
    signal: new AbortController().signal,
    onProgress: () => {},
    ...more,
  };
}

async function weightsOf(dir: string): Promise<Record<string, number[]>> {
  await using weights = await openModelWeights(dir, await readModelConfig(dir));
  const all: Record<string, number[]> = {};
  for (const spec of weights.specs) all[spec.name] = [...(await weights.read(spec))];
  return all;
}

function readJson(...path: readonly string[]): Record<string, unknown> {
  return JSON.parse(readFileSync(join(...path), 'utf8')) as Record<string, unknown>;
}

const beside = (folder: string): string[] => readdirSync(dirname(folder)).sort();

test.serial('a folder has config.json, weights with the metadata "pt", and what generates', async (t) => {
  const from = tinyFolder(t);
  const { out } = request(from);
  const { files, parameters, hasTokenizer } = await exportModel(request(from));
  t.deepEqual(
    files.map(({ name }) => name),
    ['config.json', 'generation_config.json', 'model.safetensors'],
  );
  t.deepEqual(
    readdirSync(out).sort(),
    files.map(({ name }) => name),
  );
  t.is(parameters, 2 * 20 + 4 * 16 + 3 * 24 + 3 * 4);
  t.false(hasTokenizer);
  t.deepEqual(await weightsOf(out), await weightsOf(from));
  const source = await openModelFolder(out);
  t.deepEqual(source.metadata, { format: 'pt' });
  await source.close();
  t.like(readJson(out, 'config.json'), {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    dtype: 'float32',
    torch_dtype: 'float32',
    hidden_size: 4,
  });
  t.like(readJson(out, 'generation_config.json'), { bos_token_id: 0, eos_token_id: 1 });
  t.deepEqual(beside(out), ['model', 'out'], 'no temporary folder is left');
});

test.serial('a tied model has no head', async (t) => {
  const from = tinyFolder(t, { ...TINY_JSON, tie_word_embeddings: true });
  await exportModel(request(from));
  t.false('lm_head.weight' in (await weightsOf(request(from).out)));
  t.is(readJson(request(from).out, 'config.json')['tie_word_embeddings'], true);
});

test.serial('halves are rounded, and config.json says so', async (t) => {
  for (const [dtype, name, third] of [
    ['BF16', 'bfloat16', 0.333984375],
    ['F16', 'float16', 0.333251953125],
  ] as const) {
    const tensors = tinyTensors();
    tensors[0]!.data.set(f32(1 / 3));
    const from = tinyFolder(t, TINY_JSON, tensors);
    const { out } = request(from);
    await exportModel(request(from, { dtype }));
    t.is((await weightsOf(out))['model.embed_tokens.weight']![0], third);
    t.is(readJson(out, 'config.json')['dtype'], name);
    const source = await openModelFolder(out);
    t.true([...source.tensors.values()].every((entry) => entry.dtype === dtype));
    await source.close();
  }
});

test.serial('a number too great for the type names tensor and index, and nothing is written', async (t) => {
  const tensors = tinyTensors();
  tensors.at(-2)!.data.set(f32(1, 70000));
  const from = tinyFolder(t, TINY_JSON, tensors);
  await t.throwsAsync(exportModel(request(from, { dtype: 'F16' })), {
    instanceOf: DataError,
    message:
      'model.norm.weight is 70000 at index 1; the greatest float16 is 65504: export with --dtype bf16 or f32',
  });
  t.deepEqual(beside(from), ['model']);
  await exportModel(request(from, { dtype: 'BF16' }));
});

test.serial('shards are named, indexed and read back', async (t) => {
  const from = tinyFolder(t);
  const { out } = request(from);
  const { files } = await exportModel(request(from, { maxShardBytes: 200 }));
  const shards = files.map(({ name }) => name).filter((name) => name.endsWith('.safetensors'));
  t.is(shards.length, 5);
  t.is(shards[0], 'model-00001-of-00005.safetensors');
  const index = readJson(out, 'model.safetensors.index.json') as {
    metadata: { total_size: number };
    weight_map: Record<string, string>;
  };
  t.is(index.metadata.total_size, 4 * 188);
  t.is(Object.keys(index.weight_map).length, 12);
  t.deepEqual(await weightsOf(out), await weightsOf(from));
});

test('tensors fill shards in their order, and one that is larger has a shard of its own', (t) => {
  const spec = (name: string, size: number): { name: string; shape: number[] } => ({ name, shape: [size] });
  const plan = (max: number): string[] =>
    planShards([spec('a', 1), spec('b', 2), spec('c', 9), spec('d', 1)], 'BF16', max).map(({ specs }) =>
      specs.map(({ name }) => name).join(''),
    );
  t.deepEqual(plan(26), ['abcd']);
  t.deepEqual(plan(20), ['ab', 'cd']);
  t.deepEqual(plan(6), ['ab', 'c', 'd']);
  t.deepEqual(plan(1), ['a', 'b', 'c', 'd']);
});

test.serial('the tokenizer goes along, with a tokenizer_config.json where there is none', async (t) => {
  const json = { ...TINY_JSON, vocab_size: 265, bos_token_id: 4, max_position_embeddings: 99 };
  const from = tinyFolder(t, json);
  const tokenizer = await trainBpe(['one two three two one two '.repeat(3)], 265, () => {});
  writeFileSync(join(from, 'tokenizer.json'), tokenizer);
  const { hasTokenizer } = await exportModel(request(from));
  const { out } = request(from);
  t.true(hasTokenizer);
  t.is(readFileSync(join(out, 'tokenizer.json'), 'utf8'), tokenizer);
  t.like(readJson(out, 'tokenizer_config.json'), {
    tokenizer_class: 'PreTrainedTokenizerFast',
    eos_token: '<|endoftext|>',
    model_max_length: 99,
  });
  t.is(typeof readJson(out, 'tokenizer_config.json')['bos_token'], 'string');

  writeFileSync(join(from, 'tokenizer_config.json'), '{"chat_template":"x"}');
  writeFileSync(join(from, 'generation_config.json'), '{"temperature":0.6}');
  writeFileSync(join(from, 'notes.txt'), 'not of the model');
  await exportModel(request(from, { mayReplace: true }));
  t.deepEqual(readJson(out, 'tokenizer_config.json'), { chat_template: 'x' });
  t.deepEqual(readJson(out, 'generation_config.json'), { temperature: 0.6 });
  t.false(existsSync(join(out, 'notes.txt')));
});

test.serial('several ends of a text and the padding are kept', async (t) => {
  const from = tinyFolder(t, { ...TINY_JSON, eos_token_id: [2, 3], pad_token_id: 4 });
  await exportModel(request(from));
  const { out } = request(from);
  t.like(readJson(out, 'config.json'), { eos_token_id: [2, 3], pad_token_id: 4 });
  t.like(readJson(out, 'generation_config.json'), { eos_token_id: [2, 3], pad_token_id: 4 });
});

test.serial('a folder that holds anything is refused, and --force replaces models only', async (t) => {
  const from = tinyFolder(t);
  const { out } = request(from);
  const refused = async (message: RegExp, mayReplace: boolean): Promise<void> => {
    await t.throwsAsync(exportModel(request(from, { mayReplace })), { instanceOf: ConfigError, message });
  };
  mkdirSync(out);
  await exportModel(request(from)); // empty: taken
  await refused(/out holds a model already; --force replaces it/, false);
  writeFileSync(join(out, 'model-00001-of-00002.safetensors'), 'of an older export');
  await exportModel(request(from, { mayReplace: true }));
  t.deepEqual(readdirSync(out).sort(), ['config.json', 'generation_config.json', 'model.safetensors']);
  writeFileSync(join(out, 'thesis.tex'), 'mine');
  await refused(/is not empty: it holds thesis\.tex; name another/, false);
  await refused(/holds thesis\.tex, which is no file of an exported model: --force does not delete it/, true);
  t.is(readFileSync(join(out, 'thesis.tex'), 'utf8'), 'mine');
  t.deepEqual(beside(out), ['model', 'out']);
});

test.serial('a model may be replaced by itself in another type, also through a link', async (t) => {
  const from = tinyFolder(t);
  const before = await weightsOf(from);
  const link = join(dirname(from), 'link');
  symlinkSync('model', link);
  await exportModel(request(from, { out: link, dtype: 'BF16', mayReplace: true }));
  t.deepEqual(await weightsOf(from), before, 'these numbers are exact in bfloat16');
  t.is(readJson(from, 'config.json')['dtype'], 'bfloat16');
  t.deepEqual(beside(from), ['link', 'model']);
});

test.serial(
  'a file in the place of the folder, and a folder in the place of a file, are refused',
  async (t) => {
    const from = tinyFolder(t);
    const file = join(from, 'config.json');
    await t.throwsAsync(exportModel(request(from, { out: file })), {
      instanceOf: ConfigError,
      message: /config\.json is a file; name a folder/,
    });
    await t.throwsAsync(exportModel(request(from, { out: join(file, 'x') })), { instanceOf: OperatingError });
  },
);

test.serial('an export that is interrupted leaves nothing, not even the folders above', async (t) => {
  const from = tinyFolder(t);
  const leaving = new AbortController();
  const out = join(dirname(from), 'new', 'deep', 'out');
  const more = { out, signal: leaving.signal, onProgress: () => leaving.abort() };
  const reason: unknown = await exportModel(request(from, more)).catch((error: unknown) => error);
  t.is(reason, leaving.signal.reason);
  t.deepEqual(beside(from), ['model']);
});

for (const isReplacing of [false, true]) {
  const what = isReplacing ? 'the old model or the new' : 'the model or nothing';
  test.serial(`a disk that is full at any moment leaves ${what}`, async (t) => {
    let failures = 0;
    for (let n = 1; ; n++) {
      const from = tinyFolder(t);
      writeFileSync(join(from, 'tokenizer.json'), byteTokenizer().json!);
      const { out } = request(from);
      if (isReplacing) await exportModel(request(from, { dtype: 'F16' }));
      const calls = ['mkdir', 'open', 'write', 'sync', 'rename'];
      let at = 0;
      const disk = await FaultyDisk.install(({ name }) =>
        calls.includes(name) && ++at === n ? 'ENOSPC' : null,
      );
      const error = await exportModel(request(from, { mayReplace: isReplacing })).then(
        () => null,
        (reason: unknown) => reason,
      );
      disk.restore();
      if (error === null) break;
      failures += 1;
      t.true(
        error instanceof OperatingError && /no space left on the disk/.test(error.message),
        String(error),
      );
      t.deepEqual(
        beside(from).filter((name) => name !== 'out'),
        ['model'],
        `call ${n}`,
      );
      t.is(
        existsSync(out),
        isReplacing || (existsSync(out) && Object.keys(await weightsOf(out)).length === 12),
      );
      if (existsSync(out)) t.is(Object.keys(await weightsOf(out)).length, 12, `call ${n}`);
    }
    t.true(failures > 10, `${failures} failures`);
  });
}
