/** Local steps with real processes: several optimizer steps on each trainer between two exchanges. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 4 };

test.serial(
  '8 steps of 3 equal 4, Ctrl-C and resume, with two trainers and averaged moments, and the loss falls',
  async (t) => {
    const local = { count: 3, outer: 'nesterov', moments: 'averaged', moment_periods: [2, 4] };
    const more = { local_steps: local, wire: { codec: 'int8' }, steps: 8 };
    const config = tinyConfig(TEST_TEXT, { model, method, ...more });
    const straight = await new TestRun(t, config).trainHere(2);
    const [first, last] = [straight.metrics[0]!, straight.metrics.at(-1)!];
    t.true(last.loss < first.loss - 1, `${first.loss} to ${last.loss}`);
    t.true(straight.metrics.every(({ trainers, tokens }) => trainers === 2 && tokens === 3 * 12 * 32));

    const [none, one, both] = [0, 1, 3].map((index) => straight.metrics[index]!.payloadNumbers);
    t.deepEqual([one, both], [2 * none!, 3 * none!], 'moments travel in every second and fourth exchange');

    const [mine, other] = ['trainer-1', 'trainer-2'].map((id) =>
      readFileSync(join(straight.dir, 'checkpoints/step-000008/feedback', `${id}.safetensors`)),
    );
    t.deepEqual(mine, other, 'after the last exchange both have the same moments');

    const stopped = new TestRun(t, config);
    const command = new Galore(t, stopped.trainArgs(2));
    await command.printed(/step 4\/8/);
    command.child.kill('SIGINT');
    t.is(await command.exited, 0, command.output);
    const { step, checkpoints } = await stopped.inspect();
    t.true(step >= 4 && step < 8, `stopped at step ${step}`);
    t.deepEqual(Object.keys(checkpoints.at(-1)!.feedbackBytes), ['trainer-1', 'trainer-2']);
    const output = await stopped.resume();
    t.notRegex(output, /begins with zeros/);
    t.is((await stopped.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
    t.deepEqual(
      stopped.metrics.map(({ loss }) => loss),
      straight.metrics.map(({ loss }) => loss),
    );
  },
);

test.serial(
  'of trainers one of which is killed the other one and a new one end with equal weights',
  async (t) => {
    const more = { local_steps: { count: 3 }, wire: { codec: 'int8' }, steps: 10 };
    const coordinator = { port: 0, start_trainers: 2 };
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, method, ...more, coordinator }));
    const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
    const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
    const join = (id: string): Galore => new Galore(t, ['trainer', url, '--id', id]);
    const [first, second, third] = [join('a'), join('b'), join('c')];
    await command.printed(/step 3\/10/);
    second.child.kill('SIGKILL');
    t.is(await command.exited, 0, command.output);
    const { step, weightsSha256 } = await run.inspect();
    t.is(step, 10);
    for (const trainer of [first, third]) {
      t.is(await trainer.exited, 0, trainer.output);
      t.regex(trainer.output, new RegExp(`after step 10 have SHA-256 ${weightsSha256}`));
    }
  },
);

test.serial('H with a method that cannot take local steps is refused', async (t) => {
  const config = tinyConfig(TEST_TEXT, { method: { name: 'ldadam' }, local_steps: { count: 8 } });
  const { code, output } = await galoreHere(...new TestRun(t, config).trainArgs(1));
  t.is(code, 2);
  t.regex(
    output,
    /local_steps\.count is 8; it must be 1 \(or left out\) with method\.name: ldadam, .*; local steps are for galore, golore, two-sided, full, lora or relora/,
  );
});
