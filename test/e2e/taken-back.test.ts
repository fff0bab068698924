/** The directory of a run is taken back to an earlier day while its trainer lives on. */
import { once } from 'node:events';
import { cpSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { coverRun } from '../../src/coordinator/store/inspect-coverage.ts';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

test.serial(
  'a trainer that is ahead of the journal drops its state for the journal’s, and all ends with equal weights',
  async (t) => {
    const port = await freePort();
    const steps = 40;
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, steps, coordinator: { port } }));
    const coordinators = [new Galore(t, ['coordinator', run.configPath, '--dir', run.dir])];
    await coordinators[0]!.printed(/listening on/);
    const trainer = new Galore(t, ['trainer', `ws://127.0.0.1:${port}/`, '--id', 'a', '--threads', '1']);
    const killAfter = async (step: number): Promise<void> => {
      const coordinator = coordinators.at(-1)!;
      await coordinator.printed(new RegExp(`step ${step}/${steps}`));
      coordinator.child.kill('SIGKILL');
      await coordinator.exited;
    };
    const resume = (): void => {
      coordinators.push(new Galore(t, ['resume', run.dir, '--trainers', '0']));
    };
    await killAfter(3);
    const backup = join(run.folder, 'backup');
    cpSync(run.dir, backup, { recursive: true });
    resume();
    await killAfter(20);
    rmSync(run.dir, { recursive: true });
    cpSync(backup, run.dir, { recursive: true });
    resume();
    t.is(await coordinators.at(-1)!.exited, 0, coordinators.at(-1)!.output);
    t.is(await trainer.exited, 0, trainer.output);
    // The first time it had what the journal has, the second time more.
    t.is([...trainer.output.matchAll(/receiving a snapshot/g)].length, 2, trainer.output);
    t.is([...trainer.output.matchAll(/joined run/g)].length, 3, trainer.output);
    const { weightsSha256 } = await run.inspect();
    t.regex(trainer.output, new RegExp(`after step ${steps} have SHA-256 ${weightsSha256}`));
    t.deepEqual((await coverRun(run.dir)).faults, []);
    t.deepEqual(
      run.metrics.map(({ step }) => step),
      Array.from({ length: steps }, (_, i) => i + 1),
    );
    const straight = await new TestRun(t, tinyConfig(TEST_TEXT, { model, steps })).trainHere(1);
    t.is(weightsSha256, (await straight.inspect()).weightsSha256);
  },
);

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : 0;
}
