/** A run that is kept in NATS: real processes, a real nats-server, and a coordinator that loses its disk. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { needsNats, startNatsServer } from '../helpers/nats-server.ts';

const STEPS = 12;
const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

function configWith(more: Record<string, unknown>): Record<string, unknown> {
  return tinyConfig(TEST_TEXT, {
    ...{ model, steps: STEPS, checkpoint: { every: 5, keep: 2 }, evaluation: { every: 5, sequences: 4 } },
    ...more,
  });
}

async function join1(t: ExecutionContext, coordinator: Galore): Promise<Galore> {
  const [, url] = await coordinator.printed(/listening on (ws:\S+?\/);/);
  return new Galore(t, ['trainer', url!, '--id', 'a', '--threads', '1']);
}

test.serial(
  'a coordinator that is killed goes on from NATS alone, in an empty directory, to the same weights',
  async (t) => {
    t.timeout(300_000);
    if (!needsNats(t)) return;
    const { url } = await startNatsServer(t, { more: 'authorization { token: "s3cret-token" }' });
    const environment = { GALORE_NATS_TOKEN: 's3cret-token' };
    const straight = await new TestRun(t, configWith({})).trainHere(1);
    const run = new TestRun(t, configWith({ state: { url, lease_ms: 1000 } }));
    const args = ['coordinator', run.configPath, '--dir', run.dir, '--log-level', 'debug'];
    const first = new Galore(t, args, { environment });
    const trainer = await join1(t, first);
    await first.printed(/checkpoint of step 5:/);
    await first.printed(/step 8\/12/);
    first.child.kill('SIGKILL');
    trainer.child.kill('SIGKILL');
    await first.exited;
    rmSync(run.dir, { recursive: true });
    const second = new Galore(t, args, { environment });
    const again = await join1(t, second);
    t.is(await second.exited, 0, second.output);
    t.is(await again.exited, 0, again.output);
    t.regex(second.output, /fetched \d+ records from nats:/);
    const { weightsSha256, step } = await run.inspect();
    t.is(step, STEPS);
    t.is(weightsSha256, (await straight.inspect()).weightsSha256);
    t.deepEqual(
      run.metrics.map(({ loss }) => loss),
      straight.metrics.map(({ loss }) => loss),
    );
    // Lost at most: that of step 10, if the kill came between it and the checkpoint.
    const evaluated = run.evaluations.map(({ step }) => step);
    t.true([5, 12].every((step) => evaluated.includes(step)));
    t.deepEqual(
      run.evaluations,
      straight.evaluations.filter(({ step }) => evaluated.includes(step)),
    );
    t.notRegex(first.output + second.output, /s3cret/);
    // What has ended is not trained again, wherever it is asked for.
    const third = new Galore(t, ['coordinator', run.configPath, '--dir', join(run.folder, 'third')], {
      environment,
    });
    t.is(await third.exited, 0, third.output);
    const resumed = new Galore(t, ['resume', run.dir], { environment });
    t.is(await resumed.exited, 0, resumed.output);
  },
);

test.serial('a run waits while NATS is away, and nobody else gets its name meanwhile', async (t) => {
  t.timeout(300_000);
  if (!needsNats(t)) return;
  const server = await startNatsServer(t);
  const straight = await new TestRun(t, configWith({ steps: 40 })).trainHere(1);
  const state = { url: server.url, lease_ms: 1000 };
  const run = new TestRun(t, configWith({ steps: 40, state }));
  const coordinator = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  await coordinator.printed(/listening on/);
  const second = new Galore(t, ['coordinator', run.configPath, '--dir', join(run.folder, 'second')]);
  t.is(await second.exited, 3, second.output);
  t.regex(second.output, /run tiny in nats:\S+ is led by ws:\S+ now; stop that one first/);
  const other = new TestRun(t, configWith({ steps: 40, state, batch_size: 6 }));
  const third = new Galore(t, ['coordinator', other.configPath, '--dir', other.dir]);
  t.is(await third.exited, 2, third.output);
  t.regex(third.output, /another run with the name tiny; give this one another name\n.*\n? *batch_size is 6/);
  const trainer = await join1(t, coordinator);
  await coordinator.printed(/step 3\/40/);
  await server.kill();
  await coordinator.printed(
    /paused: (cannot append record \d+: NATS at nats:\S+ does not answer|the lease could not be renewed).*as soon as it can/,
  );
  await server.start();
  t.is(await coordinator.exited, 0, coordinator.output);
  t.is(await trainer.exited, 0, trainer.output);
  t.is((await run.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
  t.deepEqual(
    run.metrics.map(({ loss }) => loss),
    straight.metrics.map(({ loss }) => loss),
  );
});
