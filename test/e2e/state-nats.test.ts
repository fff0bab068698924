/** A run that is kept in NATS: real processes, a real nats-server, and a coordinator that loses its disk. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { needsNats, startNatsServer } from '../helpers/nats-server.ts';

const STEPS = 12;
const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

function configWith(more: Record<string, unknown>): Record<string, unknown> {
  return tinyConfig(TEST_TEXT, { model, steps: STEPS, checkpoint: { every: 5, keep: 2 }, ...more });
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
    // The lines that the journal still has: from the oldest checkpoint that was kept on.
    t.deepEqual(
      run.metrics.map(({ loss }) => loss),
      straight.metrics.slice(run.metrics[0]!.step - 1).map(({ loss }) => loss),
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
