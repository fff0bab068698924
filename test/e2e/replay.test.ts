/** The weights of a run follow from a checkpoint and the journal, and the journal accounts for every sequence. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { coverRun, type RunCoverage } from '../../src/coordinator/store/inspect-coverage.ts';
import type { ReplayResult } from '../../src/cli/replay-run.ts';
import { WeightsHasher } from '../../src/files/weights-hash.ts';
import { Galore, galore, temporaryFolder, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5 };
const AVERAGED = { count: 2, moments: 'averaged', moment_periods: [2, 4] };

async function replayed(dir: string, ...more: string[]): Promise<ReplayResult & { readonly code: number }> {
  const { code, output } = await galoreHere('replay', dir, '--json', ...more);
  return { code, ...(JSON.parse(output) as ReplayResult) };
}

/** Steps at which something was compared, and whether it was equal. */
function verdicts({ rows }: ReplayResult, what: 'checkpoint' | 'trainers'): unknown[] {
  return rows.flatMap(({ step, comparedWith, isEqual }) => (comparedWith === what ? [[step, isEqual]] : []));
}

/** The run that the tests below look at: trainer b is killed on the way, checkpoints are made every 5 steps. */
const kept = mkdtempSync(join(tmpdir(), 'galore-replay-'));
const dir = join(kept, 'run');
test.after.always(() => rmSync(kept, { recursive: true, force: true }));

test.serial('a run that lost a trainer is replayed to the same weights', async (t) => {
  const coordinator = { port: 0, start_trainers: 2, sharding: 'adaptive' };
  const checkpoint = { every: 5, keep: 9 };
  const config = { model, method, coordinator, checkpoint, wire: { codec: 'int8' }, steps: 14 };
  const run = new TestRun(t, tinyConfig(TEST_TEXT, config));
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  const [a, b] = ['a', 'b'].map((id) => new Galore(t, ['trainer', url, '--id', id, '--threads', '1']));
  await command.printed(/step 7\/14/);
  b!.child.kill('SIGKILL');
  t.is(await command.exited, 0, command.output);
  t.is(await a!.exited, 0, a!.output);
  cpSync(run.dir, dir, { recursive: true });

  const result = await replayed(dir);
  t.like(result, { code: 0, from: 0, to: 14, steps: 14, equal: true });
  t.is(result.weightsSha256, (await run.inspect()).weightsSha256);
  t.deepEqual(
    verdicts(result, 'checkpoint'),
    [0, 5, 10, 14].map((step) => [step, true]),
  );
  t.deepEqual(
    verdicts(result, 'trainers'),
    [5, 10].map((step) => [step, true]),
  );
  const part = await replayed(dir, '--from', '5', '--to', '12');
  t.like(part, { code: 0, from: 5, to: 12, equal: true });
  t.deepEqual(
    part.rows.map(({ step, comparedWith, isEqual }) => [step, comparedWith, isEqual]),
    [
      [5, 'checkpoint', true],
      [10, 'trainers', true],
      [10, 'checkpoint', true],
      [12, null, null],
    ],
  );
});

test.serial('its journal shows each sequence used exactly once, and who used how many', async (t) => {
  const { code, output } = await galore(t, 'inspect', dir, '--coverage', '--json');
  t.is(code, 0, output);
  const coverage = JSON.parse(output) as RunCoverage;
  t.like(coverage, {
    steps: { from: 1, to: 14 },
    duplicates: 0,
    missing: 0,
    isExact: true,
    faults: [],
  });
  // What b had in its last step was given back, and used in place of new sequences.
  t.true(coverage.used > 13 * 12 && coverage.used <= 14 * 12, String(coverage.used));
  t.true(coverage.epochSequences! > 0);
  const shown = await galore(t, 'inspect', dir);
  t.regex(shown.output, /^a +1 to 14 +\d+ \(/m);
  t.regex(shown.output, /^b +1 to [78] +\d+ \(/m);
});

/** A copy of the run to be spoiled. */
function copyOf(t: ExecutionContext): string {
  const copy = join(temporaryFolder(t), 'copy');
  cpSync(dir, copy, { recursive: true });
  return copy;
}

test.serial('a flipped byte of the journal is named, with what can be replayed all the same', async (t) => {
  const copy = copyOf(t);
  const names = readdirSync(join(copy, 'journal')).sort();
  const path = join(copy, 'journal', names[1]!);
  const bytes = readFileSync(path);
  bytes[Math.floor(bytes.length * 0.7)]! ^= 1;
  writeFileSync(path, bytes);
  const { code, output } = await here(copy);
  t.is(code, 3, output);
  t.true(output.startsWith(`error: ${path} is damaged at byte `), output);
  const [, to] = /what can be replayed: steps 1 to (\d+) with --to \1/.exec(output)!;
  t.true(Number(to) > 5 && Number(to) < 14, output);
  t.like(await here(copy, '--to', to!), { code: 0 });
  const [, from] = /; steps from \d+ on with --from (\d+)/.exec(output)!;
  t.like(await here(copy, '--from', from!), { code: 0 });
});

/** As `replayed`, without looking at what is printed. */
function here(dir: string, ...more: string[]): Promise<{ readonly code: number; readonly output: string }> {
  return galoreHere('replay', dir, ...more);
}

test.serial('a weight changed in a checkpoint is found at that step, and nowhere else', async (t) => {
  const copy = copyOf(t);
  const folder = join(copy, 'checkpoints', 'step-000010');
  const path = join(folder, 'model.safetensors');
  const bytes = readFileSync(path);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(path, bytes);
  const damaged = await here(copy);
  t.is(damaged.code, 3, damaged.output);
  t.regex(damaged.output, /^10 .* checkpoint +damaged\n14 .* equal$/m);
  t.regex(damaged.output, /^step 10: .*model\.safetensors has SHA-256/m);
  // With a manifest that agrees, nothing but the replay can tell.
  restate(folder, bytes);
  const result = await replayed(copy);
  t.like(result, { code: 3, equal: false });
  t.deepEqual(verdicts(result, 'checkpoint'), [
    [0, true],
    [5, true],
    [10, false],
    [14, true],
  ]);
  t.deepEqual(
    verdicts(result, 'trainers'),
    [5, 10].map((step) => [step, true]),
  );
  const wrong = result.rows.find(({ isEqual }) => isEqual === false)!;
  t.regex(wrong.reason!, /^weights\/\S+ differs by up to \d/);
  t.not(wrong.weightsSha256, wrong.statedSha256);
});

/** Writes a manifest that fits the weights of a checkpoint. */
function restate(folder: string, weights: Buffer): void {
  const path = join(folder, 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as {
    weightsSha256: string;
    files: Record<string, { sha256: string }>;
  };
  const headerBytes = Number(weights.readBigUInt64LE());
  const { __metadata__: _, ...tensors } = JSON.parse(weights.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  const hasher = new WeightsHasher();
  for (const name of Object.keys(tensors).sort()) {
    const [start, end] = tensors[name]!.data_offsets.map((offset) => 8 + headerBytes + offset);
    hasher.begin(name);
    hasher.update(weights.subarray(start, end));
  }
  manifest.weightsSha256 = Buffer.from(hasher.digest()).toString('hex');
  manifest.files['model.safetensors']!.sha256 = createHash('sha256').update(weights).digest('hex');
  writeFileSync(path, JSON.stringify(manifest));
}

test.serial(
  'without checkpoints, before the journal, or of no run at all, nothing is replayed',
  async (t) => {
    const copy = copyOf(t);
    const [first] = readdirSync(join(copy, 'journal')).sort();
    rmSync(join(copy, 'journal', first!));
    const early = await here(copy, '--from', '0');
    t.is(early.code, 3, early.output);
    t.regex(
      early.output,
      /cannot be replayed: records 1 to \d+, between the checkpoint of step 0 and the journal/,
    );
    t.regex(early.output, /--from \d+ or .* can be used\n$/);
    const wrong = await here(copy, '--from', '7');
    t.is(wrong.code, 2, wrong.output);
    t.regex(wrong.output, /there is no checkpoint of step 7; there are those of steps 0, 5, 10, 14/);
    rmSync(join(copy, 'checkpoints'), { recursive: true });
    const none = await here(copy);
    t.is(none.code, 3, none.output);
    t.regex(none.output, /cannot be replayed: there is no checkpoint to begin with\n$/);
    t.like(await here(temporaryFolder(t)), { code: 3 });
  },
);

for (const [title, more] of [
  ['generated bases', { method: { name: 'golore', rank: 4, update_proj_gap: 3 } }],
  ['adaptive ranks', { method: { name: 'adarankgrad', rank: 8, update_proj_gap: 3 } }],
  ['int8 weights', { method: { name: 'q-galore', rank: 4, update_proj_gap: 3 } }],
  ['power', { method: { name: 'power', rank: 4 } }],
  ['local steps', { preset: 'local', method: { rank: 4 }, local_steps: { count: 2 } }],
  ['averaged moments', { preset: 'local', method: { rank: 4 }, local_steps: AVERAGED }],
] as const) {
  test.serial(`${title}: the replay ends with the state of the checkpoint`, async (t) => {
    const config = { model, steps: 5, checkpoint: { every: 3, keep: 9 }, ...more };
    const made = await new TestRun(t, tinyConfig(TEST_TEXT, config)).trainHere(1);
    const result = await replayed(made.dir);
    t.like(result, { code: 0, from: 0, to: 5, equal: true });
    t.is(verdicts(result, 'checkpoint').length, 3);
    t.like(await coverRun(made.dir), { steps: { from: 1, to: 5 }, isExact: true, faults: [] });
  });
}

test.serial('a hash that trainers told and that the records do not lead to is found', async (t) => {
  const copy = copyOf(t);
  const path = join(copy, 'metrics.jsonl');
  const lines = readFileSync(path, 'utf8');
  const told = /"stateHash":\{"step":5,"weightsSha256":"(..)/.exec(lines)!;
  const other = told[1] === '00' ? '01' : '00';
  writeFileSync(path, lines.replace(told[0], told[0].slice(0, -2) + other));
  const result = await replayed(copy, '--to', '6');
  t.is(result.code, 3);
  t.deepEqual(verdicts(result, 'trainers'), [[5, false]]);
  t.deepEqual(verdicts(result, 'checkpoint'), [
    [0, true],
    [5, true],
  ]);
});
