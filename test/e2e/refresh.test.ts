/** Refreshes of every kind end to end: real processes, real sockets, tiny models. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, galore, relativeDifference, tinyConfig } from '../helpers/galore.ts';

const SHORT = { steps: 6, evaluation: { every: 0, sequences: 4 } };

test.serial('bases made from the seed: 1 and 2 trainers are equal, and no sketch travels', async (t) => {
  const method = { name: 'golore', rank: 8, update_proj_gap: 2, refresh: { stagger: false } };
  const config = tinyConfig(TEST_TEXT, { ...SHORT, method });
  const one = await new TestRun(t, config).train(1);
  const two = await new TestRun(t, config).train(2);
  const weights = relativeDifference(two.weights(6), one.weights(6));
  t.true(weights <= 1e-5, `weights differ by ${weights}`);
  // Bytes of a step with a refresh (3) and of one without (2) are the same but for a few small messages.
  const up = one.metrics.map(({ bytesUp }) => bytesUp);
  t.true(Math.abs(up[2]! - up[1]!) < 1000, `${up.join(', ')}`);
});

test.serial(
  'bases made from the seed: a run that is stopped and resumed ends with the same bytes',
  async (t) => {
    const method = { name: 'golore', rank: 8, update_proj_gap: 2, refresh: { stagger: true } };
    const config = tinyConfig(TEST_TEXT, { ...SHORT, method });
    const whole = await new TestRun(t, config).train(1);
    const parts = await new TestRun(t, config).train(1, '--stop-at', '3');
    const { code, output } = await galore(t, 'resume', parts.dir);
    t.is(code, 0, output);
    t.deepEqual(stateOf(parts, 6), stateOf(whole, 6));
  },
);

/** Trained to the end at once, and stopped after three steps and resumed: the same bytes. */
async function straightAndResumed(t: ExecutionContext, method: object, steps = 6): Promise<TestRun> {
  const config = tinyConfig(TEST_TEXT, { ...SHORT, steps, method });
  const whole = await new TestRun(t, config).train(2);
  const parts = await new TestRun(t, config).train(2, '--stop-at', '3');
  const { code, output } = await galore(t, 'resume', parts.dir);
  t.is(code, 0, output);
  t.deepEqual(stateOf(parts, steps), stateOf(whole, steps));
  return whole;
}

test.serial(
  'adaptive ranks fall, fewer numbers travel, and a resumed run ends with the same bytes',
  async (t) => {
    const adaptive = { threshold: 0.2, min_rank: 2, multiple: 2 };
    const method = { name: 'adarankgrad', rank: 16, update_proj_gap: 2, adaptive_rank: adaptive };
    const run = await straightAndResumed(t, { ...method, refresh: { warm_start: true } });
    const ranks = run.metrics.map(({ meanRank }) => meanRank);
    t.true(Math.max(...ranks) < 16, `${ranks.join(', ')}`);
    // A layer's 7 matrices at rank r have 32 * 4 * r + 88 * 3 * r numbers; the rest of the model has 16,544.
    const numbers = run.metrics.map(({ payloadNumbers }) => payloadNumbers);
    t.true(Math.max(...numbers) < 16_544 + 2 * (128 + 264) * 16, `${numbers.join(', ')}`);
    const inspection = await run.inspect();
    t.is(inspection.meanRank, ranks.at(-1)!);
    t.is(inspection.payloadNumbers, numbers.at(-1)!);
  },
);

test.serial('a slot whose bases hardly change is refreshed less often, also after a resume', async (t) => {
  const method = { name: 'q-galore', rank: 8, update_proj_gap: 1, refresh: { lazy_threshold: 0.01 } };
  const run = await straightAndResumed(t, method, 9);
  // Bases in steps 1 to 6, when five similarities are known, and 8; then the gap is 4.
  t.is((await run.inspect()).journal.records, 9 + 7);
});

test.serial('cosine bases are chosen in one round', async (t) => {
  const method = { name: 'galore', basis: 'dct', rank: 8, update_proj_gap: 2 };
  const run = await new TestRun(t, tinyConfig(TEST_TEXT, { ...SHORT, method })).train(2);
  t.true(run.metrics.at(-1)!.loss < run.metrics[0]!.loss);
});

function stateOf(run: TestRun, step: number): string[] {
  return ['model.safetensors', 'optimizer.safetensors', 'projections.safetensors'].map((name) =>
    readFileSync(join(run.checkpoint(step), name)).toString('base64'),
  );
}
