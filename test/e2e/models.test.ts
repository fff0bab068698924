/** What a run leaves can be measured and made to speak, from its directory and as a plain model folder. */
import {
  cpSync,
  existsSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { TINY_JSON, tinyFolder } from '../files/tiny-folder.ts';
import { galore, ROOT, temporaryFolder, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';

test.serial(
  'eval finds the loss that the run measured; generate repeats itself for the same seed',
  async (t) => {
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { steps: 12, evaluation: { every: 0, sequences: 0 } }));
    await run.trainHere(1);

    const measured = await galore(t, 'eval', run.dir, '--json');
    t.is(measured.code, 0, measured.output);
    const { loss, step } = JSON.parse(measured.output) as { loss: number; step: number };
    t.is(step, 12);
    t.true(Math.abs(loss - (run.evaluations.at(-1)?.loss ?? NaN)) < 1e-5, `${loss}`);

    const generate = (folder: string, ...more: readonly string[]) =>
      galore(t, 'generate', folder, '--prompt', 'the ', '--max-tokens', '12', ...more);
    const first = await generate(run.dir, '--seed', '1');
    const other = await generate(run.dir, '--seed', '2');
    t.is(first.code, 0, first.output);
    t.true(first.output.startsWith('the '));
    t.not(other.output, first.output);

    // The same checkpoint, taken out of the run: only what every Hugging Face folder has.
    const folder = join(run.folder, 'elsewhere');
    cpSync(run.checkpoint(12), folder, { recursive: true });
    for (const name of ['manifest.json', 'run.json', 'optimizer.safetensors', 'projections.safetensors']) {
      rmSync(join(folder, name), { force: true });
    }
    t.is((await generate(folder, '--seed', '1')).output, first.output);
    const onFile = await galore(
      t,
      'eval',
      folder,
      '--data',
      TEST_TEXT,
      '--seq-len',
      '32',
      '--sequences',
      '10',
      '--json',
    );
    t.is(onFile.code, 0, onFile.output);
    t.like(JSON.parse(onFile.output), { step: null, sequences: 10, tokens: 320 });
  },
);

test.serial('a model folder made here is exported, measured, continued and trained on', async (t) => {
  const folder = temporaryFolder(t);
  const model = join(folder, 'model');
  cpSync(join(ROOT, 'test', 'vectors', 'llama-tiny', 'tied-gqa'), model, { recursive: true });
  const text = join(folder, 'text.txt');
  writeFileSync(text, 'one two three four five six seven '.repeat(20));
  // The model has 67 rows: the tokenizer has 27 characters that stand for themselves.
  const characters = [...Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i)), 'Ġ'];
  const vocab = Object.fromEntries(characters.map((character, id) => [character, id]));
  const tokenizer = {
    version: '1.0',
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab, merges: [] },
  };
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));

  const measure = async (...more: readonly string[]): Promise<{ loss: number; perplexity: number }> => {
    const measured = await galore(t, 'eval', ...more, '--data', text, '--seq-len', '32', '--json');
    t.is(measured.code, 0, measured.output);
    t.is(measured.output.trim().split('\n').length, 1, 'one line');
    return JSON.parse(measured.output) as { loss: number; perplexity: number };
  };
  const { loss, perplexity } = await measure(model, '--tokenizer', join(folder, 'tokenizer.json'));
  t.true(Math.abs(perplexity - Math.exp(loss)) < 1e-9 * perplexity);

  const without = await galoreHere('eval', model, '--data', text);
  t.is(without.code, 2);
  t.regex(without.output, /has no tokenizer\.json; --tokenizer PATH names one from elsewhere/);

  // In bfloat16 and shards, and back: near the same loss, from a folder that has all it needs.
  cpSync(join(folder, 'tokenizer.json'), join(model, 'tokenizer.json'));
  const out = join(folder, 'out');
  const exported = await galore(t, 'export', model, out, '--dtype', 'bf16', '--max-shard-size', '20KB');
  t.is(exported.code, 0, exported.output);
  t.regex(exported.output, /model-00004-of-00004\.safetensors/);
  const { loss: ofOut } = await measure(out);
  t.true(Math.abs(ofOut - loss) < 0.01);

  const config = tinyConfig(text, { model: { path: out }, tokenizer: undefined, seq_len: 16, batch_size: 2 });
  const run = await new TestRun(t, { ...config, steps: 1, evaluation: { every: 0 } }).trainHere(1);
  const again = await galoreHere('export', run.dir, join(folder, 'again'), '--step', '0');
  t.is(again.code, 0, again.output);
  t.is((await measure(join(folder, 'again'))).loss, ofOut, 'step 0 is the folder');
});

/** Changes that make a folder hostile, and what is said of it. */
const HOSTILE: readonly (readonly [title: string, spoil: (folder: string) => void, said: RegExp])[] = [
  [
    'a header of 2^60 bytes',
    (folder) => edit(join(folder, 'model.safetensors'), (bytes) => void bytes.writeBigUInt64LE(2n ** 60n)),
    /not a safetensors file: a header of 1152921504606847000 bytes, at most 100000000 are read\n$/,
  ],
  [
    'a file cut short',
    (folder) => truncateSync(join(folder, 'model.safetensors'), 5000),
    /bad safetensors header: tensor "\S+": data_offsets \[\d+, \d+\] lie outside the \d+ bytes of data\n$/,
  ],
  [
    'a width of 10^12',
    (folder) =>
      writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...BYTE_MODEL, hidden_size: 1e12 })),
    /\n {2}hidden_size: is 1000000000000; allowed: at most 262144\n$/,
  ],
  [
    'NaN among the weights',
    (folder) =>
      edit(join(folder, 'model.safetensors'), (bytes) => void bytes.writeFloatLE(NaN, bytes.length - 4)),
    /: lm_head\.weight is NaN at index 1023, not a finite number\n$/,
  ],
];

const BYTE_MODEL = { ...TINY_JSON, vocab_size: 256, max_position_embeddings: 64 };

function edit(path: string, change: (bytes: Buffer) => void): void {
  const bytes = readFileSync(path);
  change(bytes);
  writeFileSync(path, bytes);
}

for (const [title, spoil, said] of HOSTILE) {
  test.serial(`eval refuses a folder with one message: ${title}`, async (t) => {
    const folder = tinyFolder(t, BYTE_MODEL);
    spoil(folder);
    const ended = await galoreHere('eval', folder, '--data', TEST_TEXT, '--tokenizer', 'byte', '--json');
    t.is(ended.code, 2, ended.output);
    t.regex(ended.output, said);
    t.true(ended.output.startsWith('error: '), ended.output);
  });
}

test.serial(
  'a run does not start from weights that are no numbers, and leaves no run directory',
  async (t) => {
    const folder = tinyFolder(t, BYTE_MODEL);
    HOSTILE.at(-1)![1](folder);
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { model: { path: folder }, method: { rank: 4 } }));
    const ended = await galoreHere(...run.trainArgs(1));
    t.is(ended.code, 2, ended.output);
    t.regex(ended.output, /error: \S+: lm_head\.weight is NaN at index 1023, not a finite number\n/);
    t.false(existsSync(run.dir));
  },
);

test.serial(
  '--stop-at stops after that step, resume --steps goes on, and the new length holds',
  async (t) => {
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { steps: 20 }));
    const stopped = await galoreHere(...run.trainArgs(1, '--stop-at', '3'));
    t.is(stopped.code, 0, stopped.output);
    t.regex(stopped.output, /stopped after step 3 of 20\n/);
    const resumed = await galore(t, 'resume', run.dir, '--steps', '5', '--stop-at', '4');
    t.is(resumed.code, 0, resumed.output);
    t.regex(resumed.output, /stopped after step 4 of 5\n/);
    const ended = await galoreHere('resume', run.dir);
    t.is(ended.code, 0, ended.output);
    t.deepEqual(
      run.metrics.map(({ step }) => step),
      [1, 2, 3, 4, 5],
    );
    const tooShort = await galoreHere('resume', run.dir, '--steps', '4');
    t.is(tooShort.code, 2, tooShort.output);
    t.regex(tooShort.output, /steps is 4; it must be at least 5/);
    t.deepEqual(openFilesBelow(run.dir), []);
  },
);

/** Files below `folder` that this process holds open; none where the system does not tell. */
function openFilesBelow(folder: string): string[] {
  const held = '/proc/self/fd';
  if (!existsSync(held)) return [];
  const paths = readdirSync(held).map((name) => {
    try {
      return readlinkSync(join(held, name));
    } catch {
      return ''; // the one that lists them
    }
  });
  return paths.filter((path) => path.startsWith(folder));
}
