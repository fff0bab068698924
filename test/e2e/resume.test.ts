/** A run that was stopped and resumed ends with the same bits as one that was not. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Galore, TEST_TEXT, TestRun, galore, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5 };

for (const [codec, trainers] of [
  ['f32', 2],
  ['int8', 1],
] as const) {
  test.serial(
    `${codec}, trainers: ${trainers}: 24 steps straight equal 8 steps, Ctrl-C and resume`,
    async (t) => {
      const config = tinyConfig(TEST_TEXT, { model, method, wire: { codec }, steps: 24 });
      const straight = await new TestRun(t, config).train(trainers);

      const stopped = new TestRun(t, config);
      const command = new Galore(t, stopped.trainArgs(trainers));
      await command.printed(/step 8\/24/);
      command.child.kill('SIGINT');
      t.is(await command.exited, 0, command.output);
      t.regex(command.output, /galore(\.js)? resume /);
      const reached = (await stopped.inspect()).step;
      t.true(reached >= 8 && reached < 24, `stopped at step ${reached}`);

      const { code, output } = await galore(t, 'resume', stopped.dir);
      t.is(code, 0, output);
      const [a, b] = [await straight.inspect(), await stopped.inspect()];
      t.is(b.step, 24);
      t.is(b.weightsSha256, a.weightsSha256);
      t.deepEqual(
        stopped.metrics.map(({ step, loss }) => [step, loss]),
        straight.metrics.map(({ step, loss }) => [step, loss]),
      );
    },
  );
}

for (const [title, kept] of [
  ['f32 errors of power', { name: 'power', rank: 4, feedback_dtype: 'f32', moment_dtype: 'f32' }],
  ['int8 errors of power', { name: 'power', rank: 4 }],
  ['whole gradients of galore', { ...method, rank: 4, feedback: 'gradient' }],
] as const) {
  test.serial(`${title} go on where they were: 16 steps equal 7, Ctrl-C and resume`, async (t) => {
    const config = tinyConfig(TEST_TEXT, { model, method: kept, wire: { codec: 'int8' }, steps: 16 });
    const straight = await new TestRun(t, config).train(2);

    const stopped = new TestRun(t, config);
    const command = new Galore(t, stopped.trainArgs(2));
    await command.printed(/step 7\/16/);
    command.child.kill('SIGINT');
    t.is(await command.exited, 0, command.output);
    const { step, checkpoints } = await stopped.inspect();
    t.true(step >= 7 && step < 16, `stopped at step ${step}`);
    t.deepEqual(Object.keys(checkpoints.at(-1)!.feedbackBytes), ['trainer-1', 'trainer-2']);
    t.true(Object.values(checkpoints.at(-1)!.feedbackBytes).every((bytes) => bytes > 4000));

    const { code, output } = await galore(t, 'resume', stopped.dir);
    t.is(code, 0, output);
    t.notRegex(output, /begins with zeros/);
    const [a, b] = [await straight.inspect(), await stopped.inspect()];
    t.is(b.step, 16);
    t.is(b.weightsSha256, a.weightsSha256);
    t.deepEqual(
      stopped.metrics.map(({ loss }) => loss),
      straight.metrics.map(({ loss }) => loss),
    );
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
    const { code, output } = await galore(t, 'resume', run.dir);
    t.is(code, 0, output);
    t.regex(
      output,
      /the journal goes on to step \d+: what the trainers keep of their gradients begins with zeros/,
    );
    const { step, checkpoints } = await run.inspect();
    t.is(step, 10);
    t.deepEqual(Object.keys(checkpoints.at(-1)!.feedbackBytes), ['trainer-1', 'trainer-2']);
  },
);

/** One trainer, without interruption: what both tests below compare with. */
const config = tinyConfig(TEST_TEXT, { model, method, steps: 20, checkpoint: { every: 5, keep: 3 } });
let straight: { readonly weightsSha256: string; readonly losses: readonly number[] };

test.serial('20 steps without interruption', async (t) => {
  const run = await new TestRun(t, config).train(1);
  straight = {
    weightsSha256: (await run.inspect()).weightsSha256,
    losses: run.metrics.map(({ loss }) => loss),
  };
  t.is(straight.losses.length, 20);
});

test.serial(
  'a damaged checkpoint is named and the one before it with the journal gives the same end',
  async (t) => {
    const run = await new TestRun(t, config).train(1, '--stop-at', '12');
    const newest = readdirSync(join(run.dir, 'checkpoints')).sort().at(-1)!;
    t.is(newest, 'step-000012');
    const weights = join(run.dir, 'checkpoints', newest, 'model.safetensors');
    const bytes = readFileSync(weights);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(weights, bytes);
    const { code, output } = await galore(t, 'resume', run.dir);
    t.is(code, 0, output);
    t.regex(output, /step-000012/);
    t.is((await run.inspect()).weightsSha256, straight.weightsSha256);
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
  const { code, output } = await galore(t, 'resume', run.dir);
  t.is(code, 0, output);
  t.is((await run.inspect()).weightsSha256, straight.weightsSha256);
  t.deepEqual(
    run.metrics.map(({ step, loss }) => [step, loss]),
    straight.losses.map((loss, i) => [i + 1, loss]),
  );
});
