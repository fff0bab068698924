/** N trainers equal one: the same sequences a step, real processes, real sockets. */
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, relativeDifference, tinyConfig } from '../helpers/galore.ts';

async function trainWith(
  t: ExecutionContext,
  trainers: number,
  more: Record<string, unknown>,
): Promise<TestRun> {
  return new TestRun(t, tinyConfig(TEST_TEXT, more)).train(trainers);
}

function worstDifference(a: TestRun, b: TestRun): number {
  return Math.max(...a.metrics.map(({ loss }, i) => Math.abs(loss - b.metrics[i]!.loss)));
}

test.serial('f32, one refresh: 1, 2 and 3 trainers have equal losses and weights', async (t) => {
  const one = await trainWith(t, 1, {});
  t.is(one.metrics.length, 50);
  for (const trainers of [2, 3]) {
    const many = await trainWith(t, trainers, {});
    t.true(many.metrics.every((line) => line.trainers === trainers));
    const loss = worstDifference(one, many);
    const weights = relativeDifference(many.weights(50), one.weights(50));
    t.log(
      `${trainers} trainers: losses within ${loss.toExponential(2)}, weights within ${weights.toExponential(2)}`,
    );
    t.true(loss <= 5e-5, `losses differ by ${loss}`);
    t.true(weights <= 1e-5, `weights differ by ${weights}`);
  }
});

test.serial('f32, three refreshes: losses stay within 5e-3', async (t) => {
  const method = { name: 'galore', rank: 8, update_proj_gap: 17, refresh: { stagger: false } };
  const one = await trainWith(t, 1, { method });
  const two = await trainWith(t, 2, { method });
  const loss = worstDifference(one, two);
  t.log(`losses within ${loss.toExponential(2)}`);
  t.true(loss <= 5e-3, `losses differ by ${loss}`);
});

test.serial('int8: the loss curves of 1 and 2 trainers stay within 1%', async (t) => {
  const wire = { codec: 'int8' };
  const one = await trainWith(t, 1, { wire });
  const two = await trainWith(t, 2, { wire });
  const worst = Math.max(...one.metrics.map(({ loss }, i) => Math.abs(two.metrics[i]!.loss / loss - 1)));
  t.log(`curves within ${(100 * worst).toFixed(2)}%`);
  t.true(worst <= 0.01, `curves differ by ${worst}`);
  t.true(two.metrics[5]!.bytesUp < 0.6 * 4 * 30_000 * 2, 'int8 is smaller than f32');
});

test.serial('two runs with the same seed and trainers end with the same weights', async (t) => {
  const more = { steps: 12, wire: { codec: 'int8' } };
  const first = await (await trainWith(t, 2, more)).inspect();
  const second = await (await trainWith(t, 2, more)).inspect();
  t.is(first.step, 12);
  t.is(first.weightsSha256, second.weightsSha256);
});
