import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { DataError } from '../../src/errors.ts';
import { openModelFolder } from '../../src/files/model-folder.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { f32, safetensorsOf } from './safetensors-samples.ts';

const INDEX = 'model.safetensors.index.json';
const FIRST = 'model-00001-of-00002.safetensors';
const SECOND = 'model-00002-of-00002.safetensors';

const index = (weightMap: unknown): string =>
  JSON.stringify({ metadata: { total_size: 16 }, weight_map: weightMap });

/** Two shards as transformers writes them. */
async function writeShards(dir: string): Promise<void> {
  const embed = { name: 'model.embed_tokens.weight', dtype: 'F32', shape: [2, 1], data: f32(1, 2) };
  const norm = { name: 'model.norm.weight', dtype: 'BF16', shape: [1], data: Buffer.from([0x40, 0x40]) };
  await writeFile(join(dir, FIRST), safetensorsOf([embed], { format: 'pt' }));
  await writeFile(join(dir, SECOND), safetensorsOf([norm], { format: 'pt' }));
  await writeFile(join(dir, INDEX), index({ [embed.name]: FIRST, [norm.name]: SECOND }));
}

/** A shard of these tensors, a number each. */
function shardOf(...names: readonly string[]): Buffer {
  return safetensorsOf(names.map((name) => ({ name, dtype: 'F32', shape: [1], data: f32(1) })));
}

test('shards are read as one', async (t) => {
  const dir = temporaryDir(t);
  await writeShards(dir);
  const model = await openModelFolder(dir);
  t.teardown(() => model.close());
  t.deepEqual([...model.tensors.keys()], ['model.embed_tokens.weight', 'model.norm.weight']);
  t.deepEqual(await model.readFloat32('model.embed_tokens.weight'), new Float32Array([1, 2]));
  t.deepEqual(await model.readFloat32('model.norm.weight'), new Float32Array([3]));
  t.deepEqual(Buffer.from(await model.readBytes('model.embed_tokens.weight', 4, 4)), f32(2));
  await t.throwsAsync(model.readFloat32('lm_head.weight'), {
    instanceOf: DataError,
    message: /no tensor lm_head.weight/,
  });
  t.deepEqual(model.metadata, { format: 'pt' });
});

test('a single file is read, also through a link, and wins over shards', async (t) => {
  const dir = temporaryDir(t);
  await writeShards(dir);
  await mkdir(join(dir, 'blobs'));
  await writeFile(
    join(dir, 'blobs', 'abc'),
    safetensorsOf([{ name: 'w', dtype: 'F32', shape: [1], data: f32(7) }]),
  );
  await symlink(join('blobs', 'abc'), join(dir, 'model.safetensors'));
  const model = await openModelFolder(dir);
  t.teardown(() => model.close());
  t.deepEqual(await model.readFloat32('w'), new Float32Array([7]));
});

test('folders without usable weights say what is wrong', async (t) => {
  const dir = temporaryDir(t);
  const refused = async (message: RegExp): Promise<void> => {
    const error = await t.throwsAsync(openModelFolder(dir), { instanceOf: DataError });
    t.regex(error.message, message);
  };
  await t.throwsAsync(openModelFolder(join(dir, 'none')), {
    instanceOf: DataError,
    message: /does not exist/,
  });
  await refused(/holds neither model\.safetensors nor/);
  await writeFile(join(dir, 'pytorch_model.bin'), '');
  await refused(/pytorch_model\.bin is in PyTorch's own format/);
  await writeFile(join(dir, INDEX), '{');
  await refused(/it is not JSON/);
  await writeFile(join(dir, INDEX), '{}');
  await refused(/has no weight_map/);
  for (const file of [
    '../secret.safetensors',
    '/etc/passwd',
    'a/b.safetensors',
    'x\\y.safetensors',
    'model.bin',
    7,
  ]) {
    await writeFile(join(dir, INDEX), index({ w: file }));
    await refused(/not a \.safetensors file/);
  }
  await writeFile(join(dir, INDEX), index({ w: FIRST }));
  await refused(/model-00001-of-00002\.safetensors does not exist/);
  await writeFile(join(dir, INDEX), `{"weight_map":{"w":"${FIRST}","w":"${SECOND}"}}`);
  await refused(/index\.json cannot be used: the name "w" is there twice/);
  await writeShards(dir);
  await writeFile(join(dir, INDEX), index({ 'model.norm.weight': SECOND }));
  await writeFile(join(dir, SECOND), await readFile(join(dir, FIRST)));
  await refused(/model\.norm\.weight is said to be in model-00002.*, which does not have it/);
  await writeFile(join(dir, INDEX), index({ 'model.embed_tokens.weight': FIRST, w: SECOND }));
  await writeFile(join(dir, SECOND), shardOf('w', 'model.embed_tokens.weight'));
  await refused(/model-00002\S* holds tensor model\.embed_tokens\.weight too, as model-00001\S* has/);
  await writeFile(join(dir, SECOND), shardOf('w', 'x'));
  await refused(/model-00002\S* holds tensor x, which it does not name/);
  await writeShards(dir);
  await writeFile(join(dir, INDEX), index({ 'model.norm.weight': FIRST }));
  await refused(/model\.norm\.weight is said to be in model-00001.*, which does not have it/);
});
