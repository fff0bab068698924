/** Refreshes of every kind end to end: real sockets, several trainers as real processes, tiny models. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, relativeDifference, tinyConfig } from '../helpers/galore.ts';

const SHORT = { steps: 6, evaluation: { every: 0, sequences: 4 } };

test.serial(
  'bases from the seed: 2 trainers equal 1, and a resumed run is the same to the byte',
  async (t) => {
    const method = { name: 'golore', rank: 8, update_proj_gap: 2, refresh: { stagger: false } };
    const config = tinyConfig(TEST_TEXT, { ...SHORT, method });
    const one = await new TestRun(t, config).trainHere(1);
    const two = await new TestRun(t, config).trainHere(2);
    const weights = relativeDifference(two.weights(6), one.weights(6));
    t.true(weights <= 1e-5, `weights differ by ${weights}`);
    // Bytes of a step with a refresh (3) and of one without (2) are the same but for a few small messages.
    const up = one.metrics.map(({ bytesUp }) => bytesUp);
    t.true(Math.abs(up[2]! - up[1]!) < 1000, `${up.join(', ')}`);
    t.deepEqual(stateOf(await stoppedAndResumed(t, config, 1), 6), stateOf(one, 6));
  },
);

test.serial(
  'adaptive ranks fall, fewer numbers travel; resumed from the journal the bytes are the same',
  async (t) => {
    const adaptive = { threshold: 0.2, min_rank: 2, multiple: 2 };
    const refresh = { warm_start: true };
    const method = { name: 'adarankgrad', rank: 16, update_proj_gap: 2, adaptive_rank: adaptive, refresh };
    const config = tinyConfig(TEST_TEXT, { ...SHORT, method });
    const run = await new TestRun(t, config).trainHere(2);
    const ranks = run.metrics.map(({ meanRank }) => meanRank);
    t.true(Math.max(...ranks) < 16, `${ranks.join(', ')}`);
    // A layer's 7 matrices at rank r have 32 * 4 * r + 88 * 3 * r numbers; the rest of the model has 16,544.
    const numbers = run.metrics.map(({ payloadNumbers }) => payloadNumbers);
    t.true(Math.max(...numbers) < 16_544 + 2 * (128 + 264) * 16, `${numbers.join(', ')}`);
    const inspection = await run.inspect();
    t.is(inspection.meanRank, ranks.at(-1)!);
    t.is(inspection.payloadNumbers, numbers.at(-1)!);
    t.deepEqual(stateOf(await stoppedAndResumed(t, config, 2, 'journal'), 6), stateOf(run, 6));
  },
);

test.serial('a slot whose bases hardly change is refreshed less often, also after a resume', async (t) => {
  const method = { name: 'q-galore', rank: 8, update_proj_gap: 1, refresh: { lazy_threshold: 0.01 } };
  const run = await stoppedAndResumed(t, tinyConfig(TEST_TEXT, { ...SHORT, steps: 9, method }), 1);
  // Bases in steps 1 to 6, when five similarities are known, and 8; then the gap is 4.
  t.is((await run.inspect()).journal.records, 9 + 7);
  // With a gap of 1 every step's hash is told, in the line of the next; of step 3 a process knew that has ended.
  const told = run.metrics.flatMap(({ stateHash }) => stateHash?.step ?? []);
  t.deepEqual(told, [1, 2, 4, 5, 6, 7, 8]);
});

test.serial('cosine bases are chosen in one round', async (t) => {
  const method = { name: 'galore', basis: 'dct', rank: 8, update_proj_gap: 2 };
  const run = await new TestRun(t, tinyConfig(TEST_TEXT, { ...SHORT, method })).trainHere(1);
  t.true(run.metrics.at(-1)!.loss < run.metrics[0]!.loss);
});

/** Stopped after step 3 and resumed: from its checkpoint, or from the first one and the journal alone. */
async function stoppedAndResumed(
  t: ExecutionContext,
  config: Record<string, unknown>,
  trainers: number,
  from: 'checkpoint' | 'journal' = 'checkpoint',
): Promise<TestRun> {
  const run = new TestRun(t, config);
  await run.trainHere(trainers, '--stop-at', '3');
  if (from === 'journal') rmSync(run.checkpoint(3), { recursive: true });
  await run.resume('here');
  return run;
}

function stateOf(run: TestRun, step: number): string[] {
  return ['model.safetensors', 'optimizer.safetensors', 'projections.safetensors'].map((name) =>
    readFileSync(join(run.checkpoint(step), name)).toString('base64'),
  );
}
