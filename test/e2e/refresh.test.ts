/** Refreshes of every kind end to end: real processes, real sockets, tiny models. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
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

function stateOf(run: TestRun, step: number): string[] {
  return ['model.safetensors', 'optimizer.safetensors', 'projections.safetensors'].map((name) =>
    readFileSync(join(run.checkpoint(step), name)).toString('base64'),
  );
}
