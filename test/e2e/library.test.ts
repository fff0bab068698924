/** The library at work: the program of examples/library, and what a trainer that is turned away says. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { Coordinator, Trainer, TrainerError } from '../../src/index.ts';
import { ROOT, temporaryFolder, TEST_TEXT, tinyConfig } from '../helpers/galore.ts';

test('the example trains ten steps with a coordinator and a trainer in one program', (t) => {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(ROOT, 'dist/examples/library/main.js')],
    {
      cwd: ROOT,
      encoding: 'utf8',
    },
  );
  t.is(status, 0, stderr);
  t.is(stdout.match(/^step \d+: loss \d/gm)?.length, 10, stdout);
  t.regex(stdout, /^completed after step 10, weights [0-9a-f]{16}$/m);
  t.regex(stdout, /^the trainer: all 10 steps are done$/m);
});

test('a trainer that is turned away rejects with the reason; one that is stopped resolves', async (t) => {
  const folder = temporaryFolder(t);
  const config = tinyConfig(TEST_TEXT) as unknown as Parameters<typeof Coordinator.start>[0]['config'];
  const coordinator = await Coordinator.start({
    config,
    set: { dir: join(folder, 'run'), 'coordinator.start_trainers': 2 },
  });
  const url = coordinator.localUrl;
  const stranger = await Trainer.start({ url, id: 'stranger', run: 'another', device: 'cpu', threads: 1 });
  const error = await t.throwsAsync(stranger.finished, { instanceOf: TrainerError });
  t.regex(error!.message, /another/);
  await t.throwsAsync(
    stranger[Symbol.asyncIterator]()
      .next()
      .then(() => stranger.finished),
    { is: error! },
  );

  const token = coordinator.localToken;
  const trainer = await Trainer.start({ url, id: 'one', token, device: 'cpu', threads: 1 });
  t.is(trainer.id, 'one');
  const activities: string[] = [];
  for await (const activity of trainer) {
    activities.push(activity);
    if (/wait/.test(activity)) break;
  }
  t.true(activities.length > 0);
  t.regex(await trainer.stop(), /left|asked|leav/);
  await coordinator.stop();
});
