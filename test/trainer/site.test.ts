import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { RunConfig } from '../../src/config/schema.ts';
import { siteFacts } from '../../src/coordinator/site-facts.ts';
import { baseHash } from '../../src/files/base-weights.ts';
import { parseModelConfig, type ModelConfig } from '../../src/model/model-config.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { Site, type SiteOptions } from '../../src/trainer/site.ts';
import type { WelcomedRun } from '../../src/trainer/welcomed-run.ts';
import { resolve } from '../config/parse.ts';
import { temporaryFolder } from '../files/temporary-folder.ts';
import { wordTokenizer } from '../files/word-tokenizer.ts';
import { ROOT } from '../helpers/galore.ts';

const TOKENIZER = wordTokenizer(Array.from({ length: 20 }, (_, i) => `word${i}`)).json!;
const BASE = join(ROOT, 'test/vectors/bert-tiny/labels2');

interface Prepared {
  readonly folder: string;
  readonly run: WelcomedRun;
  /** Opens the site, whose data are three examples. */
  readonly open: (changes?: Partial<SiteOptions>) => Promise<Site>;
}

/** A run that began with bert-tiny. */
async function prepare(t: ExecutionContext, ...settings: string[]): Promise<Prepared> {
  const lines = ['word1 word2', 'word3', 'word4 word5 word6'].map((text, i) =>
    JSON.stringify({ text, label: i === 1 ? 'spam' : 'ham' }),
  );
  const folder = temporaryFolder(t, { 'mails.jsonl': lines.join('\n'), 'tokenizer.json': TOKENIZER });
  const config = resolve(
    'name: run\nsteps: 3\nseed: 9\nseq_len: 8\n',
    `model={path: ${BASE}}`,
    'task={type: sequence-classification, labels: [ham, spam]}',
    'tokenizer={type: file, path: tokenizer.json}',
    'data={local: true, validation_fraction: 0}',
    ...settings,
  );
  const model = parseModelConfig(JSON.parse(readFileSync(join(BASE, 'config.json'), 'utf8')), BASE);
  const run = {
    runId: 'r',
    config,
    model,
    shape: buildRunShape(config, model),
    snapshot: null,
  } as WelcomedRun;
  const facts = siteFacts(TOKENIZER, await baseHash(BASE, model, config.seed));
  const options: SiteOptions = {
    data: join(folder, 'mails.jsonl'),
    cacheDir: join(folder, 'cache'),
    skipsBadLines: false,
    shares: 'losses',
    onProgress: () => {},
  };
  const open = async (changes: Partial<SiteOptions> = {}): Promise<Site> => {
    const site = await Site.open(run, facts, { ...options, ...changes });
    t.teardown(() => site.close());
    return site;
  };
  return { folder, run, open };
}

test('a site with the same tokenizer and the same model folder is in', async (t) => {
  const { folder, open } = await prepare(t);
  const site = await open({ tokenizer: join(folder, 'tokenizer.json'), base: BASE });
  t.is(site.description, '3 examples to train on, 0 held out');
  const { labelled } = await site.sequencesOf(1, 3);
  t.deepEqual([...labelled!.classes].sort(), [0, 0, 1]);
});

test('another tokenizer is named with both hashes', async (t) => {
  const { folder, open } = await prepare(t);
  const other = join(folder, 'other.json');
  writeFileSync(other, wordTokenizer(['word1']).json!);
  const error = await t.throwsAsync(open({ tokenizer: other }));
  t.regex(
    error!.message,
    /the tokenizer of the run \(SHA-256 [0-9a-f]{64}\) is not .*other\.json \(SHA-256 [0-9a-f]{64}\)/,
  );
});

test('other base weights are named with both hashes, and a run without a folder has none', async (t) => {
  const { folder, run, open } = await prepare(t);
  const changed = join(folder, 'changed');
  cpSync(BASE, changed, { recursive: true });
  const file = join(changed, 'model.safetensors');
  const bytes = readFileSync(file);
  bytes[bytes.length - 2]! ^= 1;
  writeFileSync(file, bytes);
  const error = await t.throwsAsync(open({ base: changed }));
  t.regex(
    error!.message,
    /the run began with other weights \(SHA-256 [0-9a-f]{64}\) than those of .*changed/,
  );
  const options = {
    data: '',
    cacheDir: '',
    skipsBadLines: false,
    shares: 'losses',
    base: BASE,
    onProgress: () => {},
  } as const;
  await t.throwsAsync(Site.open(run, siteFacts(TOKENIZER, ''), options), {
    message: /the run began with weights made from its seed/,
  });
});

test('a new head is made from the seed of the run, so that it belongs to the hash', async (t) => {
  const { run } = await prepare(t);
  const three = { ...run.model, labels: ['a', 'b', 'c'] } as ModelConfig;
  const [one, again, other] = await Promise.all([1, 1, 2].map((seed) => baseHash(BASE, three, seed)));
  t.is(one, again);
  t.not(one, other);
});

test('a site tells its size if the run asks for it, its losses unless it keeps them, and cannot do without both', async (t) => {
  const { open } = await prepare(t);
  t.deepEqual((await open()).told(1.5), { lossSum: 1.5, weight: 3 });
  t.deepEqual((await open({ shares: 'counts' })).told(1.5), { lossSum: 0, weight: 3, isLossWithheld: true });
  const { done } = await (await open({ shares: 'counts' })).heldOut().next();
  t.true(done, 'nothing is measured whose losses are kept');
  await t.throwsAsync(open({ shares: 'nothing' }), { message: /the run weights sites by examples/ });
  const sharded = await prepare(t, 'local_steps.weighting=equal', 'coordinator.sharding=examples');
  t.is((await sharded.open({ shares: 'counts' })).examples, 3);
  await t.throwsAsync(sharded.open({ shares: 'nothing' }), { message: /shares a step out by the examples/ });
  const equal = await prepare(t, 'local_steps.weighting=equal');
  t.is((await equal.open()).examples, undefined);
  t.deepEqual((await equal.open({ shares: 'nothing' })).told(1.5), { lossSum: 0, isLossWithheld: true });
});

test('bytes are the tokens of a run without a tokenizer.json, and a site that names one is told', async (t) => {
  const { run, folder } = await prepare(t);
  const config = { ...run.config, tokenizer: { type: 'byte' } } as unknown as RunConfig;
  const options = {
    data: join(folder, 'mails.jsonl'),
    cacheDir: join(folder, 'c'),
    skipsBadLines: false,
  } as const;
  const more = {
    ...options,
    shares: 'losses',
    onProgress: () => {},
    tokenizer: join(folder, 'tokenizer.json'),
  } as const;
  await t.throwsAsync(Site.open({ ...run, config }, siteFacts(undefined, ''), more), {
    message: /the run's tokens are bytes/,
  });
});
