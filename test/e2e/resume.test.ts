/** A run that was stopped and resumed ends with the same bits as one that was not. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { inspectRun } from '../../src/coordinator/store/inspect.ts';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5 };

test.serial('int8, two trainers: 20 steps straight equal 8 steps, Ctrl-C and resume', async (t) => {
  const config = tinyConfig(TEST_TEXT, { model, method, wire: { codec: 'int8' }, steps: 20 });
  const uninterrupted = await new TestRun(t, config).trainHere(2);
  const stopped = await interrupted(t, config, 2, 8);
  await stopped.resume('here');
  await isSame(t, stopped, uninterrupted);
});

for (const [title, kept, codec, trainers] of [
  ['f32 errors of power', { name: 'power', rank: 4, feedback_dtype: 'f32', moment_dtype: 'f32' }, 'f32', 1],
  ['int8 errors of power', { name: 'power', rank: 4 }, 'int8', 2],
  ['whole gradients of galore', { ...method, rank: 4, feedback: 'gradient' }, 'int8', 2],
] as const) {
  test.serial(`${title} go on where they were: 14 steps equal 7, Ctrl-C and resume`, async (t) => {
    const config = tinyConfig(TEST_TEXT, { model, method: kept, wire: { codec }, steps: 14 });
    const uninterrupted = await new TestRun(t, config).trainHere(trainers);
    const stopped = await interrupted(t, config, trainers, 7);
    const { feedbackBytes } = (await stopped.inspect()).checkpoints.at(-1)!;
    t.deepEqual(Object.keys(feedbackBytes), ['trainer-1', 'trainer-2'].slice(0, trainers));
    t.true(Object.values(feedbackBytes).every((bytes) => bytes > 4000));
    const output = await stopped.resume(kept.name === 'power' && trainers === 2 ? 'process' : 'here');
    t.notRegex(output, /begins with zeros/);
    await isSame(t, stopped, uninterrupted);
  });
}

test.serial(
  'after kill -9 the errors of power begin with zeros, which is said, and the run ends',
  async (t) => {
    const run = new TestRun(
      t,
      tinyConfig(TEST_TEXT, { model, method: { name: 'power', rank: 4 }, steps: 10 }),
    );
    const command = new Galore(t, run.trainArgs(2));
    await command.printed(/step 4\/10/);
    command.child.kill('SIGKILL');
    await command.exited;
    const output = await run.resume();
    t.regex(
      output,
      /the journal goes on to step \d+: what the trainers keep of their gradients begins with zeros/,
    );
    const { step, checkpoints } = await run.inspect();
    t.is(step, 10);
    t.deepEqual(Object.keys(checkpoints.at(-1)!.feedbackBytes), ['trainer-1', 'trainer-2']);
  },
);

/** One trainer, f32, without interruption: what the tests below compare with. */
const config = tinyConfig(TEST_TEXT, { model, method, steps: 20, checkpoint: { every: 5, keep: 3 } });
let straight: { readonly weightsSha256: string; readonly losses: readonly number[] };

test.serial('20 steps without interruption', async (t) => {
  const run = await new TestRun(t, config).trainHere(1);
  straight = {
    weightsSha256: (await run.inspect()).weightsSha256,
    losses: run.metrics.map(({ loss }) => loss),
  };
  t.is(straight.losses.length, 20);
});

test.serial('f32, one trainer: 8 steps, Ctrl-C and resume give the same end', async (t) => {
  const run = await interrupted(t, config, 1, 8);
  await run.resume('here');
  await isAsStraight(t, run);
});

test.serial(
  'a damaged checkpoint is named and the one before it with the journal gives the same end',
  async (t) => {
    const run = await new TestRun(t, config).trainHere(1, '--stop-at', '12');
    const newest = readdirSync(join(run.dir, 'checkpoints')).sort().at(-1)!;
    t.is(newest, 'step-000012');
    const weights = join(run.dir, 'checkpoints', newest, 'model.safetensors');
    const bytes = readFileSync(weights);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(weights, bytes);
    t.regex(await run.resume('here'), /step-000012/);
    t.is((await inspectRun(run.dir)).weightsSha256, straight.weightsSha256);
  },
);

test.serial('kill -9 of everything loses no committed step and no line of metrics', async (t) => {
  const run = new TestRun(t, { ...config, checkpoint: { every: 0 } }); // the journal has every step
  const command = new Galore(t, run.trainArgs(1));
  await command.printed(/step 5\/20/);
  command.child.kill('SIGKILL');
  await command.exited;
  const metrics = join(run.dir, 'metrics.jsonl');
  const lines = readFileSync(metrics, 'utf8').split('\n');
  writeFileSync(metrics, lines.slice(0, 5).join('\n')); // as if more lines had been lost, one of them half
  await run.resume();
  await isAsStraight(t, run);
});

/** Trains as processes; Ctrl-C after `step`. */
async function interrupted(
  t: ExecutionContext,
  config: Record<string, unknown>,
  trainers: number,
  step: number,
): Promise<TestRun> {
  const run = new TestRun(t, config);
  const steps = Number(config['steps']);
  const command = new Galore(t, run.trainArgs(trainers));
  await command.printed(new RegExp(`step ${step}/${steps}`));
  command.child.kill('SIGINT');
  t.is(await command.exited, 0, command.output);
  t.regex(command.output, /galore(\.js)? resume /);
  const reached = (await run.inspect()).step;
  t.true(reached >= step && reached < steps, `stopped at step ${reached}`);
  return run;
}

async function isSame(t: ExecutionContext, resumed: TestRun, whole: TestRun): Promise<void> {
  const [a, b] = [await whole.inspect(), await resumed.inspect()];
  t.is(b.step, whole.metrics.length);
  t.is(b.weightsSha256, a.weightsSha256);
  const steps = (run: TestRun): unknown => run.metrics.map(({ step, loss }) => [step, loss]);
  t.deepEqual(steps(resumed), steps(whole));
}

async function isAsStraight(t: ExecutionContext, run: TestRun): Promise<void> {
  t.is((await run.inspect()).weightsSha256, straight.weightsSha256);
  t.deepEqual(
    run.metrics.map(({ step, loss }) => [step, loss]),
    straight.losses.map((loss, i) => [i + 1, loss]),
  );
}
