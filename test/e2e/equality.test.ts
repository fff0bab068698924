/** N trainers equal one: the same sequences a step, several of them as real processes with real sockets. */
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, relativeDifference, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

function runOf(t: ExecutionContext, more: Record<string, unknown>): TestRun {
  return new TestRun(t, tinyConfig(TEST_TEXT, { model, ...more }));
}

function trainWith(t: ExecutionContext, trainers: number, more: Record<string, unknown>): Promise<TestRun> {
  return runOf(t, more).trainHere(trainers);
}

function worstDifference(a: TestRun, b: TestRun): number {
  return Math.max(...a.metrics.map(({ loss }, i) => Math.abs(loss - b.metrics[i]!.loss)));
}

test.serial('f32, one refresh: 1, 2 and 3 trainers have equal losses and weights', async (t) => {
  const one = await trainWith(t, 1, {});
  t.is(one.metrics.length, 50);
  for (const trainers of [2, 3]) {
    const many = await runOf(t, {}).train(trainers);
    t.true(many.metrics.every((line) => line.trainers === trainers));
    const loss = worstDifference(one, many);
    const weights = relativeDifference(many.weights(50), one.weights(50));
    t.log(
      `${trainers} trainers: losses within ${loss.toExponential(2)}, weights within ${weights.toExponential(2)}`,
    );
    t.true(loss <= 5e-5, `losses differ by ${loss}`);
    t.true(weights <= 1e-5, `weights differ by ${weights}`);
  }
  // Whatever shares the clock leads to.
  const coordinator = { port: 0, sharding: 'adaptive' };
  const adaptive = await trainWith(t, 2, { coordinator, steps: 12 });
  t.is(adaptive.metrics.length, 12);
  t.true(worstDifference(adaptive, one) <= 5e-5);
});

test.serial('f32, three refreshes: losses stay within 5e-3', async (t) => {
  const method = { name: 'galore', rank: 8, update_proj_gap: 8, refresh: { stagger: false } };
  const one = await trainWith(t, 1, { method, steps: 24 });
  const two = await trainWith(t, 2, { method, steps: 24 });
  const loss = worstDifference(one, two);
  t.log(`losses within ${loss.toExponential(2)}`);
  t.true(loss <= 5e-3, `losses differ by ${loss}`);
});

test.serial('int8: the loss curves of 1 and 2 trainers stay within 1%', async (t) => {
  const more = { wire: { codec: 'int8' }, steps: 20 };
  const one = await trainWith(t, 1, more);
  const two = await trainWith(t, 2, more);
  const worst = Math.max(...one.metrics.map(({ loss }, i) => Math.abs(two.metrics[i]!.loss / loss - 1)));
  t.log(`curves within ${(100 * worst).toFixed(2)}%`);
  t.true(worst <= 0.01, `curves differ by ${worst}`);
  const { bytesUp, payloadNumbers } = two.metrics[5]!;
  t.true(bytesUp < 0.6 * 4 * payloadNumbers * 2, 'int8 is smaller than f32');
});
