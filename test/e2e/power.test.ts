/** Slots that travel as power, and groups of parameters, from end to end. */
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, relativeDifference, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'power', rank: 8, target_modules: ['attn', 'mlp', 'embed_tokens', 'lm_head'] };
/** At this rank a basis leaves most of a gradient out. */
const KEEPING = { ...method, name: 'galore', rank: 4, update_proj_gap: 4, feedback: 'gradient', scale: 0.5 };
const EXACT = { ...method, feedback_dtype: 'f32', moment_dtype: 'f32' };

function runOf(t: ExecutionContext, more: Record<string, unknown>): TestRun {
  return new TestRun(t, tinyConfig(TEST_TEXT, { model, ...more }));
}

function train(t: ExecutionContext, trainers: number, more: Record<string, unknown>): Promise<TestRun> {
  return runOf(t, more).trainHere(trainers);
}

function areEqual(t: ExecutionContext, one: TestRun, two: TestRun): void {
  t.true(two.metrics.every((line) => line.trainers === 2));
  const steps = one.metrics.length;
  t.is(two.metrics.length, steps);
  const loss = Math.max(...one.metrics.map((line, i) => Math.abs(line.loss - two.metrics[i]!.loss)));
  const weights = relativeDifference(two.weights(steps), one.weights(steps));
  const [losses, all] = [loss.toExponential(2), weights.toExponential(2)];
  t.log(`losses within ${losses}, weights within ${all}`);
  t.true(loss <= 5e-5, `losses differ by ${loss}`);
  t.true(weights <= 1e-5, `weights differ by ${weights}`);
}

test.serial('power, f32: two trainers have the losses and weights of one', async (t) => {
  const one = await train(t, 1, { method: EXACT });
  t.is(one.metrics.length, 50);
  areEqual(t, one, await runOf(t, { method: EXACT }).train(2));
});

test.serial('delayed power, f32: two trainers have the losses and weights of one, and learn', async (t) => {
  const more = { method: EXACT, wire: { codec: 'f32', overlap: 'delayed' }, steps: 30 };
  const one = await train(t, 1, more);
  areEqual(t, one, await train(t, 2, more));
  t.true(one.metrics.at(-1)!.loss < one.metrics[0]!.loss - 0.5);
});

test.serial('power with its defaults, two trainers: int8 learns as f32 does', async (t) => {
  // At rank 16 the tall product of embedding and head has the 4096 numbers from which on int8 is int8.
  const int8 = await train(t, 2, { method: { ...method, rank: 16 }, wire: { codec: 'int8' }, steps: 30 });
  const f32 = await train(t, 1, { method: { ...EXACT, rank: 16 }, steps: 30 });
  const [first, last, exact] = [int8.metrics[0]!, int8.metrics.at(-1)!, f32.metrics.at(-1)!];
  t.true(last.loss < first.loss - 0.5, `${first.loss} to ${last.loss}`);
  t.true(Math.abs(last.loss / exact.loss - 1) < 0.02, `${last.loss}, f32 ${exact.loss}`);
  t.true(first.bytesUp < 0.8 * 4 * 2 * first.payloadNumbers);
  t.log(`loss ${last.loss}, f32 ${exact.loss}; ${first.bytesUp} bytes for ${first.payloadNumbers} numbers`);
});

test.serial(
  'groups: a frozen tensor stays as it is and does not travel, another rank sends less',
  async (t) => {
    const steps = 4;
    const groups = [
      { match: ['embed_tokens'], policy: 'frozen' },
      { match: ['mlp'], rank: 2 },
    ];
    const run = await train(t, 2, {
      method: { ...EXACT, param_groups: groups },
      steps,
      checkpoint: { every: 2 },
    });
    const [before, after] = [run.weights(2), run.weights(4)];
    for (const [name, values] of after) {
      const isEqual = values.every((value, i) => value === before.get(name)![i]);
      t.is(isEqual, name.includes('embed_tokens'), name);
    }
    const vocab = after.get('model.embed_tokens.weight')!.length / 32;
    // Tall: EW [m, r] of q, k, v, o (8) and the MLP (2), and of the head; norms whole. The other step: P'E [r, n].
    const whole = await train(t, 1, { method: EXACT, steps });
    const sizes = [run, whole].map(({ metrics }) =>
      metrics.slice(0, 2).map(({ payloadNumbers }) => payloadNumbers),
    );
    const [small, large] = sizes.map(([first = 0, second = 0]) => first + second);
    const attention = 4 * 8 * (32 + 32);
    const head = 8 * (vocab + 32);
    const norms = 2 * 3 * 32;
    t.is(small, attention + head + norms + 3 * 2 * (88 + 32));
    t.is(large, attention + 2 * head + norms + 3 * 8 * (88 + 32));
    for (const { bytesUp, payloadNumbers, trainers } of [run.metrics[0]!, whole.metrics[0]!]) {
      const overhead = bytesUp / trainers - 4 * payloadNumbers;
      t.true(overhead > 0 && overhead < 2000, `nothing else travels: ${overhead} bytes of headers`);
      t.log(`${bytesUp} bytes of ${trainers}, ${payloadNumbers} numbers`);
    }
  },
);

test.serial('galore with payload feedback, refreshes and int8: two trainers do what one does', async (t) => {
  const more = {
    method: { name: 'galore', rank: 8, update_proj_gap: 5, feedback: 'payload' },
    steps: 12,
    wire: { codec: 'int8' },
  };
  const [one, two] = [await train(t, 1, more), await train(t, 2, more)];
  const worst = Math.max(...one.metrics.map(({ loss }, i) => Math.abs(two.metrics[i]!.loss / loss - 1)));
  t.log(`curves within ${(100 * worst).toFixed(2)}%`);
  t.true(worst <= 0.01, `curves differ by ${worst}`);
  t.true(two.metrics.at(-1)!.loss < two.metrics[0]!.loss - 0.5);
});

test.serial(
  'galore that keeps whole gradients, f32: two trainers do what one does over refreshes',
  async (t) => {
    const more = { method: { ...KEEPING, feedback_dtype: 'f32' }, wire: { codec: 'f32' }, steps: 10 };
    const [one, two] = [await train(t, 1, more), await train(t, 2, more)];
    const loss = Math.max(...one.metrics.map((line, i) => Math.abs(line.loss - two.metrics[i]!.loss)));
    const weights = relativeDifference(two.weights(10), one.weights(10));
    t.log(`losses within ${loss.toExponential(2)}, weights within ${weights.toExponential(2)}`);
    t.true(loss <= 5e-5, `losses differ by ${loss}`);
    t.true(weights <= 1e-5, `weights differ by ${weights}`);
  },
);

test.serial('galore that keeps whole gradients in int8: two trainers learn over refreshes', async (t) => {
  // As above, embedding and head have 4096 numbers to send.
  const keeping = { ...KEEPING, rank: 16 };
  const { metrics } = await train(t, 2, { method: keeping, wire: { codec: 'int8' }, steps: 20 });
  const [first, last] = [metrics[0]!, metrics.at(-1)!];
  t.log(`loss ${first.loss} to ${last.loss}`);
  t.true(metrics.every(({ trainers }) => trainers === 2));
  t.true(metrics[1]!.bytesUp < 0.9 * 4 * 2 * metrics[1]!.payloadNumbers);
  t.true(last.loss < first.loss - 0.5, `${first.loss} to ${last.loss}`);
});

test.serial('int4 with staggered refreshes and flushes: two trainers learn as one does in f32', async (t) => {
  // Payloads of 4096 numbers and more: R of the MLP is [128, 32], the embedding whole.
  const wide = { ...model, hidden_size: 64, intermediate_size: 128 };
  const galore = { name: 'galore', rank: 32, update_proj_gap: 4, refresh: { stagger: true } };
  const run = (codec: string, trainers: number) =>
    train(t, trainers, { model: wide, method: galore, wire: { codec }, steps: 12 });
  const [int4, f32] = [await run('int4', 2), await run('f32', 1)];
  const [first, last, exact] = [int4.metrics[0]!, int4.metrics.at(-1)!, f32.metrics.at(-1)!];
  t.true(int4.metrics.every(({ trainers }) => trainers === 2));
  t.true(last.loss < first.loss - 0.3, `${first.loss} to ${last.loss}`);
  t.true(Math.abs(last.loss / exact.loss - 1) < 0.05, `${last.loss}, f32 ${exact.loss}`);
});
