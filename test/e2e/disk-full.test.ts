/** A disk that fills up while a run is on it: real processes, a real file system of a few megabytes. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Galore, galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { fillUp, padding, resizeDisk, smallDisk } from '../helpers/small-disk.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const CANNOT_CONTINUE = 3;
const PAUSED =
  /paused: the disk is full: .* free for (\S+), which needs .*; the run goes on when there is room/;

/** Its directory is on the small disk. */
class RunOnSmallDisk extends TestRun {
  override readonly dir: string;
  constructor(t: ConstructorParameters<typeof TestRun>[0], config: Record<string, unknown>, disk: string) {
    super(t, config);
    this.dir = join(disk, 'run');
  }
}

test.serial(
  'a run whose disk is filled pauses, says why to everyone, and ends as if nothing had been once there is room',
  async (t) => {
    const disk = smallDisk(t, 24_000);
    if (disk === null) return;
    const steps = 40;
    const config = tinyConfig(TEST_TEXT, {
      model,
      steps,
      checkpoint: { every: 20, keep: 2 },
      evaluation: { every: 10, sequences: 4 },
      // Far shorter than the pause: nobody is dropped for it.
      coordinator: {
        port: 0,
        step_deadline_ms: 1000,
        heartbeat_interval_ms: 100,
        heartbeat_timeout_ms: 800,
      },
    });
    const straight = await new TestRun(t, config).trainHere(1);
    const run = new RunOnSmallDisk(t, config, disk);
    const coordinator = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
    const [, url] = await coordinator.printed(/listening on (ws:\S+?\/);/);
    const trainer = new Galore(t, ['trainer', url!, '--id', 'a', '--threads', '1']);
    await coordinator.printed(/step 3\/40/);
    const filling = fillUp(disk);
    const [, path] = await coordinator.printed(PAUSED);
    t.is(path, join(run.dir, 'journal'));
    await trainer.printed(PAUSED);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    t.is(coordinator.child.exitCode, null, coordinator.output);
    rmSync(filling);
    await coordinator.printed(/the run goes on after a pause of [2-9]\.\d s/);
    t.is(await coordinator.exited, 0, coordinator.output);
    t.is(await trainer.exited, 0, trainer.output);
    t.regex(trainer.output, /the run goes on after a pause/);
    t.notRegex(coordinator.output, /a left: (?!all)| is lost|TIMEOUT/);
    const stepsOf = (lines: readonly { step: number }[]): number[] => lines.map(({ step }) => step);
    t.deepEqual(stepsOf(run.metrics), stepsOf(straight.metrics));
    t.deepEqual(
      run.metrics.map(({ loss }) => loss),
      straight.metrics.map(({ loss }) => loss),
    );
    t.deepEqual(run.evaluations, straight.evaluations);
    t.is((await run.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
  },
);

test.serial('Ctrl-C ends a paused run; it is resumed with the same weights when there is room', async (t) => {
  const disk = smallDisk(t, 1500);
  if (disk === null) return;
  const space = padding(disk, 500);
  const config = tinyConfig(TEST_TEXT, { model, steps: 60 });
  const straight = await new TestRun(t, { ...config, steps: 12 }).trainHere(1);
  const run = new RunOnSmallDisk(t, config, disk);
  const command = new Galore(t, run.trainArgs(1));
  await command.printed(PAUSED);
  command.child.kill('SIGINT');
  t.is(await command.exited, CANNOT_CONTINUE, command.output);
  const [, step] = /error: there is no checkpoint of step (\d+): .*no space left on the disk/.exec(
    command.output,
  )!;
  const committed = Number(step);
  t.true(committed > 2 && committed < 12, command.output);
  t.regex(command.output, /to go on: .*resume /);
  rmSync(space);
  resizeDisk(disk, 4000);
  const resumed = await galore(t, 'resume', run.dir, '--stop-at', '12');
  t.is(resumed.code, 0, resumed.output);
  t.regex(resumed.output, new RegExp(`^step ${committed + 1}/60`, 'm'));
  t.is((await run.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
});

test.serial('the end of a run waits for room for its last checkpoint', async (t) => {
  const disk = smallDisk(t, 900);
  if (disk === null) return;
  const space = padding(disk, 240);
  const run = new RunOnSmallDisk(t, tinyConfig(TEST_TEXT, { steps: 3 }), disk);
  const command = new Galore(t, run.trainArgs(1));
  const [, path] = await command.printed(PAUSED);
  t.is(path, join(run.dir, 'checkpoints'));
  t.is(run.metrics.length, 3);
  t.deepEqual(readdirSync(path!), ['step-000000']);
  t.regex(command.output, /the checkpoint of step 3 could not be written: .*; the journal has its steps/);
  rmSync(space);
  resizeDisk(disk, 4000);
  t.is(await command.exited, 0, command.output);
  t.regex(command.output, /^done: 3 steps/m);
  t.true(readdirSync(path!).includes('step-000003'));
});
