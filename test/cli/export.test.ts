/** `galore export`: which model, which arguments, what is printed. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { ExportRequest, ExportResult } from '../../src/files/model-export.ts';
import { FakeStream, world, type World, type WorldOptions } from './fakes.ts';
import { withRun } from './runs.ts';

const RESULT: ExportResult = {
  files: [
    { name: 'config.json', bytes: 700 },
    { name: 'model.safetensors', bytes: 1_234_567 },
  ],
  parameters: 308_000,
  hasTokenizer: true,
};

/** Services whose export does what the test says, and the requests it was given. */
function exporting(answer: (request: ExportRequest) => ExportResult = () => RESULT): {
  options: WorldOptions;
  requests: ExportRequest[];
} {
  const requests: ExportRequest[] = [];
  const exportModel = async (request: ExportRequest): Promise<ExportResult> => {
    requests.push(request);
    return Promise.resolve(request).then(answer);
  };
  return { options: { services: { exportModel } }, requests };
}

test('the newest checkpoint of a run is exported, and it says which', async (t) => {
  const { options, requests } = exporting();
  const w = await withRun(t, options);
  t.is(await w.run('export', 'kept', 'out'), 0, w.err.text);
  t.like(requests[0], {
    from: join(w.dir, 'kept/checkpoints/step-000010'),
    out: join(w.dir, 'out'),
    dtype: 'F32',
    maxShardBytes: 5e9,
    mayReplace: false,
  });
  t.is(
    w.out.text,
    'model: kept/checkpoints/step-000010, the checkpoint of step 10\n' +
      'wrote out: 308.0k parameters in f32\n  config.json  700 B\n  model.safetensors  1.2 MB\n',
  );
  t.is(w.err.text, '');
});

test('a step, a type, a size and --force are passed on', async (t) => {
  const { options, requests } = exporting();
  const w = await withRun(t, options);
  const flags = ['--step', '2', '--dtype', 'bf16', '--max-shard-size', '1.5GiB', '--force'];
  t.is(await w.run('export', 'kept', 'out', ...flags), 0, w.err.text);
  t.like(requests[0], {
    from: join(w.dir, 'kept/checkpoints/step-000002'),
    dtype: 'BF16',
    maxShardBytes: 1.5 * 2 ** 30,
    mayReplace: true,
  });
});

test('sizes are read as people write them', async (t) => {
  const { options, requests } = exporting();
  const w = await withRun(t, options);
  const sizes: readonly (readonly [string, number])[] = [
    ['5GB', 5e9],
    ['500mb', 5e8],
    ['2 GiB', 2 ** 31],
    ['100k', 1e5],
    ['12345', 12345],
  ];
  for (const [text, bytes] of sizes) {
    await w.run('export', 'kept', 'out', '--max-shard-size', text);
    t.is(requests.at(-1)?.maxShardBytes, bytes, text);
  }
  for (const text of ['', 'large', '0', '-5GB', '5XB', '1e9999', '5GB2', '.']) {
    t.is(await w.run('export', 'kept', 'out', '--max-shard-size', text), 2, text);
  }
  t.is(requests.length, sizes.length);
});

async function refused(w: World, ...args: readonly string[]): Promise<string> {
  w.err.text = '';
  const code = await w.run('export', ...args);
  return `${code} ${w.err.text}`;
}

test('what cannot be exported is told apart', async (t) => {
  const { options, requests } = exporting();
  const w = await withRun(t, options);
  mkdirSync(join(w.dir, 'llama'));
  writeFileSync(join(w.dir, 'llama/config.json'), '{}');
  t.is(
    await refused(w, 'kept', 'out', '--step', '3'),
    '2 error: the run in kept has no checkpoint of step 3; it has checkpoints of steps 2, 10\n',
  );
  t.regex(
    await refused(w, 'llama', 'out', '--step', '3'),
    /^2 error: --step 3 .* llama is no run directory\n$/,
  );
  t.regex(await refused(w, 'none', 'out'), /^2 error: there is no folder none\n$/);
  t.regex(await refused(w, 'kept', 'out', '--dtype', 'int8'), /^2 .*Allowed choices are f32, bf16, f16/s);
  t.regex(await refused(w, 'kept'), /^2 .*missing required argument 'out'/s);
  t.is(requests.length, 0);
});

test('a folder without a tokenizer is exported with a word about it', async (t) => {
  const { options } = exporting(() => ({ ...RESULT, hasTokenizer: false }));
  const w = world(t, options);
  mkdirSync(join(w.dir, 'llama'));
  writeFileSync(join(w.dir, 'llama/config.json'), '{}');
  t.is(await w.run('export', 'llama', 'out'), 0);
  t.is(w.err.text, 'llama has no tokenizer.json, so out has none\n');
  t.true(w.out.text.startsWith('model: llama\n'));
});

test('progress is drawn on a terminal and taken away', async (t) => {
  const { options } = exporting(({ onProgress }) => {
    onProgress('writing model.safetensors', 0.25);
    return RESULT;
  });
  const w = await withRun(t, { ...options, out: new FakeStream(true, 80) });
  t.is(await w.run('export', 'kept', 'out'), 0);
  const clear = '\r\u001b[2K';
  t.true(w.out.text.includes(`${clear}writing model.safetensors  25%${clear}wrote out`));
});

test('Ctrl-C ends it with a word and the code of an interruption', async (t) => {
  let interrupt = (): void => {};
  const { options } = exporting(({ signal }) => {
    interrupt();
    signal.throwIfAborted();
    return RESULT;
  });
  const w = await withRun(t, options);
  interrupt = () => w.signal('SIGINT');
  t.is(await w.run('export', 'kept', 'out'), 130);
  t.is(w.err.text, 'interrupted: out was not written\n');
  t.is(w.signals.listenerCount('SIGINT'), 0);
});
