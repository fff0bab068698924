import { createHash } from 'node:crypto';
import { access, cp, mkdir, readFile, readdir, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { CheckpointError, DataError } from '../../../src/errors.ts';
import {
  beginCheckpoint,
  describeCheckpoint,
  openCheckpoint,
  openNewestCheckpoint,
  pruneCheckpoints,
  removeCheckpointLeftovers,
} from '../../../src/coordinator/store/checkpoint.ts';
import type { OpenCheckpoint } from '../../../src/coordinator/store/checkpoint.ts';
import { formatDocument } from '../../../src/coordinator/store/checkpoint-format.ts';
import { openSafetensors } from '../../../src/files/safetensors.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { TENSORS, expectedState, readState, runFacts, tensorBytes, writeCheckpoint } from './checkpoints.ts';

const unexpected = (text: string): never => {
  throw new Error(`unexpected notice: ${text}`);
};
const CONFIG = { configJson: '{}' };

test('a checkpoint gives back tensors, facts and texts', async (t) => {
  const dir = join(temporaryDir(t), 'checkpoints');
  const info = await writeCheckpoint(dir, 60);
  t.is(info.path, join(dir, 'step-000060'));
  const checkpoint = (await openNewestCheckpoint(dir, unexpected)) as OpenCheckpoint;
  t.teardown(() => checkpoint.close());
  t.deepEqual(checkpoint.run, { formatVersion: 2, ...runFacts(60) });
  t.deepEqual(
    checkpoint.tensors.map(({ name, shape, totalBytes }) => [name, shape, totalBytes]),
    [
      ['weights/lm_head', [2], 8],
      ['weights/model.w', [2, 3], 24],
      ['m/model.w', [2, 2], 16],
      ['v/model.w', [2, 2], 16],
      ['basis/model.w', [3, 2], 24],
    ],
  );
  t.deepEqual(await readState(checkpoint), expectedState(60));
  t.deepEqual(Buffer.from(await checkpoint.read(1, 8, 4)), Buffer.from(tensorBytes(60, 1).subarray(8, 12)));
  t.is(await checkpoint.readText('config.json'), '{"model_type":"llama"}');
  t.is(await checkpoint.readText('tokenizer.json'), '{"version":"1.0"}');
  t.is(await checkpoint.readText('generation_config.json'), null);
  t.is(checkpoint.manifest.weightsSha256, info.weightsSha256);
  await t.throwsAsync(checkpoint.read(5, 0, 1), { instanceOf: RangeError });
  await t.throwsAsync(checkpoint.read(0, 4, 8), { instanceOf: RangeError });
});

test('the files are those of docs/state.md, with Hugging Face names for the weights', async (t) => {
  const dir = temporaryDir(t);
  const info = await writeCheckpoint(dir, 3);
  t.deepEqual((await readdir(info.path)).sort(), [
    'config.json',
    'manifest.json',
    'model.safetensors',
    'optimizer.safetensors',
    'projections.safetensors',
    'run.json',
    'tokenizer.json',
  ]);
  const names: Record<string, string[]> = {};
  for (const name of ['model', 'optimizer', 'projections']) {
    const file = await openSafetensors(join(info.path, `${name}.safetensors`));
    t.deepEqual(file.metadata, { format: 'pt' });
    names[name] = [...file.tensors.keys()];
    await file.close();
  }
  t.deepEqual(names, {
    model: ['lm_head', 'model.w'],
    optimizer: ['m/model.w', 'v/model.w'],
    projections: ['basis/model.w'],
  });
  const manifest = JSON.parse(await readFile(join(info.path, 'manifest.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  t.is((manifest['files'] as Record<string, unknown>)['manifest.json'], undefined);
  const weights = createHash('sha256')
    .update('lm_head\0')
    .update(tensorBytes(3, 2))
    .update('model.w\0')
    .update(tensorBytes(3, 1))
    .digest('hex');
  t.is(manifest['weightsSha256'], weights);
});

test('the same state gives the same bytes, in whatever order it arrived', async (t) => {
  const [one, two] = [join(temporaryDir(t), 'a'), join(temporaryDir(t), 'b')];
  const first = await writeCheckpoint(one, 5);
  const reversed = TENSORS.toReversed();
  const writer = await beginCheckpoint(two, 5, reversed, {
    configJson: '{"model_type":"llama"}',
    tokenizerJson: '{"version":"1.0"}',
  });
  for (const index of reversed.keys())
    await writer.write(index, 0, tensorBytes(5, TENSORS.length - 1 - index));
  const second = await writer.finish(runFacts(5));
  for (const name of await readdir(first.path)) {
    t.deepEqual(await readFile(join(first.path, name)), await readFile(join(second.path, name)), name);
  }
});

test('a checkpoint of weights only has no empty files', async (t) => {
  const dir = temporaryDir(t);
  const writer = await beginCheckpoint(dir, 0, [{ name: 'weights/w', shape: [1] }], CONFIG);
  await writer.write(0, 0, new Uint8Array(4));
  const { path } = await writer.finish(runFacts(0));
  t.deepEqual((await readdir(path)).sort(), [
    'config.json',
    'manifest.json',
    'model.safetensors',
    'run.json',
  ]);
  const checkpoint = await openCheckpoint(dir, 0);
  t.deepEqual(checkpoint.tensors, [{ name: 'weights/w', shape: [1], dtype: 'f32', totalBytes: 4 }]);
  await checkpoint.close();
});

test('an incomplete or abandoned checkpoint never exists', async (t) => {
  const dir = temporaryDir(t);
  const writer = await beginCheckpoint(dir, 1, TENSORS, CONFIG);
  await writer.write(0, 0, tensorBytes(1, 0));
  await t.throwsAsync(writer.finish(runFacts(1)), { instanceOf: DataError, message: /is not complete/ });
  t.is(await openNewestCheckpoint(dir, unexpected), null);
  await writer.abandon();
  await writer.abandon();
  t.deepEqual(await readdir(dir), []);
});

test('tensors the state does not have are refused', async (t) => {
  const dir = temporaryDir(t);
  for (const name of ['w', 'weights/', 'extra/w', '/w', '']) {
    await t.throwsAsync(
      beginCheckpoint(dir, 1, [{ name, shape: [1] }], CONFIG),
      { instanceOf: RangeError },
      name,
    );
  }
  const writer = await beginCheckpoint(dir, 1, [{ name: 'weights/../../escape', shape: [1] }], CONFIG);
  await writer.write(0, 0, new Uint8Array(4)); // a tensor's name is never a path
  await t.throwsAsync(writer.write(1, 0, new Uint8Array(4)), { instanceOf: RangeError });
  await t.throwsAsync(writer.write(0, 4, new Uint8Array(4)), { instanceOf: RangeError });
  await t.throwsAsync(writer.finish(runFacts(2)), {
    instanceOf: RangeError,
    message: /step 1 cannot hold step 2/,
  });
  await writer.abandon();
  t.deepEqual(await readdir(dir), []);
});

test('a checkpoint made again replaces the one of its step', async (t) => {
  const dir = temporaryDir(t);
  const { path } = await writeCheckpoint(dir, 4);
  await truncate(join(path, 'model.safetensors'), 10);
  await writeCheckpoint(dir, 4);
  t.deepEqual(await readdir(dir), ['step-000004']);
  const checkpoint = await openNewestCheckpoint(dir, unexpected);
  t.deepEqual(await readState(checkpoint!), expectedState(4));
  await checkpoint!.close();
});

test('no checkpoints is null, only damaged ones is an error', async (t) => {
  const dir = temporaryDir(t);
  t.is(await openNewestCheckpoint(join(dir, 'none'), unexpected), null);
  t.is(await openNewestCheckpoint(dir, unexpected), null);
  await mkdir(join(dir, 'step-000001'));
  await mkdir(join(dir, 'step-000002'));
  const notices: string[] = [];
  await t.throwsAsync(
    openNewestCheckpoint(dir, (text) => notices.push(text)),
    {
      instanceOf: CheckpointError,
      message:
        /no checkpoint in .* can be used: .*step-000002 is damaged: manifest.json is missing; .*step-000001/,
    },
  );
  t.is(notices.length, 2);
});

/** Every way to damage a checkpoint, and what is said about it. */
const DAMAGE: readonly (readonly [
  title: string,
  damage: (path: string) => Promise<void>,
  message: RegExp,
])[] = [
  ['no manifest', (path) => rm(join(path, 'manifest.json')), /manifest\.json is missing/],
  [
    'a manifest that is not JSON',
    (path) => writeFile(join(path, 'manifest.json'), '{'),
    /manifest\.json: it is not JSON/,
  ],
  [
    'a manifest of a later format',
    (path) => edit(path, 'manifest.json', { formatVersion: 3 }),
    /formatVersion: /,
  ],
  [
    'a manifest of another step',
    (path) => edit(path, 'manifest.json', { step: 9 }),
    /manifest\.json is that of step 9/,
  ],
  [
    'a manifest without files',
    (path) => edit(path, 'manifest.json', { files: {} }),
    /does not list model\.safetensors/,
  ],
  [
    'a manifest with a path',
    (path) => edit(path, 'manifest.json', { files: { '../x': { bytes: 1, sha256: '0'.repeat(64) } } }),
    /manifest\.json: files/,
  ],
  [
    'a manifest with another weights hash',
    (path) => edit(path, 'manifest.json', { weightsSha256: '0'.repeat(64) }),
    /its weights have the hash/,
  ],
  ['no weights', (path) => rm(join(path, 'model.safetensors')), /model\.safetensors is missing/],
  [
    'weights cut short',
    (path) => truncate(join(path, 'model.safetensors'), 50),
    /model\.safetensors has 50 bytes, the manifest says/,
  ],
  [
    'a folder in place of a file',
    (path) => replaceByFolder(join(path, 'run.json')),
    /run\.json (has|is a folder)/,
  ],
  ['another run.json', (path) => edit(path, 'run.json', { seed: 8 }), /run\.json has SHA-256/],
];

async function edit(path: string, name: string, fields: object): Promise<void> {
  const document = JSON.parse(await readFile(join(path, name), 'utf8')) as object;
  await writeFile(join(path, name), formatDocument({ ...document, ...fields }));
}

async function replaceByFolder(path: string): Promise<void> {
  await rm(path);
  await mkdir(path);
}

for (const [title, damage, message] of DAMAGE) {
  test(`a damaged checkpoint is named and the one before it used: ${title}`, async (t) => {
    const dir = temporaryDir(t);
    await writeCheckpoint(dir, 1);
    const { path } = await writeCheckpoint(dir, 2);
    await damage(path);
    const notices: string[] = [];
    const checkpoint = (await openNewestCheckpoint(dir, (text) => notices.push(text))) as OpenCheckpoint;
    t.is(checkpoint.step, 1);
    t.deepEqual(await readState(checkpoint), expectedState(1));
    await checkpoint.close();
    t.is(notices.length, 1);
    t.regex(notices[0]!, message);
    t.true(notices[0]!.startsWith(`checkpoint ${path} is damaged: `), notices[0]);
    const error = await t.throwsAsync(openCheckpoint(dir, 2), { instanceOf: CheckpointError, message });
    t.is(error.path, path);
  });
}

test('a flipped bit in any byte of any file is found', async (t) => {
  const dir = temporaryDir(t);
  const { path } = await writeCheckpoint(dir, 1);
  for (const name of await readdir(path)) {
    const whole = await readFile(join(path, name));
    for (let at = 0; at < whole.length; at += name === 'manifest.json' ? 1 : 7) {
      const bytes = Buffer.from(whole);
      bytes[at] = bytes[at]! ^ 1;
      await writeFile(join(path, name), bytes);
      const opened = await openCheckpoint(dir, 1).catch((error: unknown) => error);
      // White space between the manifest's fields means nothing.
      const isHarmless = name === 'manifest.json' && /\s/.test(String.fromCharCode(whole[at]!));
      if (isHarmless && !(opened instanceof Error)) await (opened as { close(): Promise<void> }).close();
      else t.true(opened instanceof CheckpointError, `${name} byte ${at}: ${String(opened)}`);
    }
    await writeFile(join(path, name), whole);
  }
  await (await openCheckpoint(dir, 1)).close();
});

test('a file cut short at any length is found', async (t) => {
  const dir = temporaryDir(t);
  const { path } = await writeCheckpoint(dir, 1);
  for (const name of await readdir(path)) {
    const whole = await readFile(join(path, name));
    // The manifest's last byte is a line end, which means nothing.
    for (let length = 0; length < whole.length - 1; length += 5) {
      await writeFile(join(path, name), whole.subarray(0, length));
      await t.throwsAsync(openCheckpoint(dir, 1), { instanceOf: CheckpointError });
    }
    await writeFile(join(path, name), whole);
  }
});

test('files that only pretend to be a checkpoint of ours are refused', async (t) => {
  const dir = temporaryDir(t);
  const { path } = await writeCheckpoint(dir, 1);
  await cp(path, join(dir, 'step-000002'), { recursive: true });
  await t.throwsAsync(openCheckpoint(dir, 2), { instanceOf: CheckpointError, message: /is that of step 1/ });
  await rename(path, join(dir, 'step-1'));
  await rm(join(dir, 'step-000002'), { recursive: true });
  t.is(await openNewestCheckpoint(dir, unexpected), null);
});

test('only the newest checkpoints are kept, and damaged ones do not count', async (t) => {
  const dir = temporaryDir(t);
  for (const step of [1, 2, 3, 4, 5]) await writeCheckpoint(dir, step);
  await rm(join(dir, 'step-000004', 'run.json'));
  const kept = await pruneCheckpoints(dir, 2);
  t.deepEqual(
    kept.map(({ step, sequence }) => [step, sequence]),
    [
      [3, 6],
      [5, 10],
    ],
  );
  t.deepEqual((await readdir(dir)).sort(), ['step-000003', 'step-000004', 'step-000005']);
  t.is((await pruneCheckpoints(dir, 1)).length, 1);
  t.deepEqual(await readdir(dir), ['step-000005']);
  await t.throwsAsync(pruneCheckpoints(dir, 0), { instanceOf: RangeError });
});

test('steps beyond six digits sort as numbers', async (t) => {
  const dir = temporaryDir(t);
  for (const step of [999_999, 1_000_000]) await writeCheckpoint(dir, step);
  const checkpoint = await openNewestCheckpoint(dir, unexpected);
  t.is(checkpoint?.path, join(dir, 'step-1000000'));
  await checkpoint?.close();
});

test('what a crash left is removed, and a checkpoint half replaced gets its name back', async (t) => {
  const dir = temporaryDir(t);
  await writeCheckpoint(dir, 1);
  await writeCheckpoint(dir, 2);
  await mkdir(join(dir, '.tmp-step-000003-abc'));
  await writeFile(join(dir, '.tmp-step-000003-abc', 'model.safetensors'), 'x');
  await cp(join(dir, 'step-000001'), join(dir, '.old-step-000001'), { recursive: true });
  await rename(join(dir, 'step-000002'), join(dir, '.old-step-000002'));
  await writeFile(join(dir, 'notes.txt'), 'mine');
  await removeCheckpointLeftovers(dir);
  t.deepEqual((await readdir(dir)).sort(), ['notes.txt', 'step-000001', 'step-000002']);
  const checkpoint = await openNewestCheckpoint(dir, unexpected);
  t.is(checkpoint?.step, 2);
  await checkpoint?.close();
  await removeCheckpointLeftovers(join(dir, 'none'));
  await access(dir);
});

test('a checkpoint of version 1, which had no feedback, is read', async (t) => {
  const dir = temporaryDir(t);
  const { path } = await writeCheckpoint(dir, 3);
  await edit(path, 'manifest.json', { formatVersion: 1 });
  const checkpoint = await openCheckpoint(dir, 3);
  t.teardown(() => checkpoint.close());
  await checkpoint.includeFeedback('a');
  t.is(checkpoint.tensors.length, TENSORS.length);
  t.deepEqual((await describeCheckpoint(dir, 3)).feedbackBytes, {});
});

test('a byte of feedback that flips is damage, as of any other file', async (t) => {
  const dir = temporaryDir(t);
  const writer = await beginCheckpoint(dir, 3, TENSORS, { configJson: '{}' });
  for (const index of TENSORS.keys()) await writer.write(index, 0, tensorBytes(3, index));
  for (const trainerId of ['a', '..']) {
    const feedback = await writer.beginFeedback(trainerId, [{ name: 'residual/lm_head', shape: [2] }]);
    await feedback.write(0, 0, new Uint8Array(8));
  }
  const { path, feedbackBytes } = await writer.finish(runFacts(3), ['a', '..']);
  t.deepEqual(Object.keys(feedbackBytes), ['..', 'a']);
  await (await openCheckpoint(dir, 3)).close();
  const file = join(path, 'feedback', 'a.safetensors');
  const bytes = await readFile(file);
  bytes[bytes.length - 1]! ^= 1;
  await writeFile(file, bytes);
  await t.throwsAsync(openCheckpoint(dir, 3), { message: /feedback\/a\.safetensors has SHA-256/ });
});
