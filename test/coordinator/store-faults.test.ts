/**
 * The real coordinator on a disk that fails: killed between any two of its writes, without power, and full. Serial: the
 * disk is replaced for the whole process.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { RunningCoordinator } from '../../src/coordinator/api.ts';
import { OperatingError } from '../../src/errors.ts';
import { FaultyDisk, type Decide } from '../faulty-disk.ts';
import { checkWhole, placeOf, runTo, undisturbed, type Place, type Ran } from '../support/stand-in-run.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';

/**
 * Nothing happens from the n-th place on. The writes of one file that follow each other are one place: until it is
 * synced nothing goes by its name, and checkpoint-faults.test.ts has every one of them.
 */
function killedAt(n: number): Decide {
  let places = 0;
  let last = '';
  return ({ name }) => {
    if (name !== 'write' || last !== 'write') places++;
    last = name;
    return places >= n ? 'EIO' : null;
  };
}

for (const isPowerLost of [false, true]) {
  const what = isPowerLost ? 'a power failure' : 'a kill';
  test.serial(
    `${what} of the coordinator between any two of its writes loses no announced step`,
    async (t) => {
      const digest = await undisturbed(t);
      let crashes = 0;
      // Without power the same happens as after a kill, but for what was not synced: every third place will do.
      for (let n = 1; ; n += isPowerLost ? 3 : 1) {
        const place = placeOf(t);
        const trainer = new StandInTrainer(place.run);
        const disk = await FaultyDisk.install(killedAt(n));
        const first = await runTo(t, place, trainer);
        if (isPowerLost) await disk.failPower();
        else disk.restore();
        if (first.error === null) break;
        crashes++;
        const held = trainer.state;
        const { snapshots } = trainer;
        // Its owner, this process, is not gone: that a lock without owner is taken over is tested elsewhere.
        rmSync(join(place.config.dir, 'lock'), { force: true });
        const second = await runTo(t, place, trainer);
        t.is(second.error, null, `call ${n}: ${String(first.error)}\n${second.said.join('')}`);
        t.is(trainer.state.digest, digest, `call ${n}`);
        // It was let in with what it held: the journal lacked nothing of that.
        if (held.sequence > 0) t.is(trainer.snapshots, snapshots, `call ${n}`);
        await checkWhole(t, place, `call ${n}`);
      }
      t.true(crashes > 30, `${crashes} crashes`);
      t.log(`${crashes} places`);
    },
  );
}

for (const [code, times] of [
  ['ENOSPC', 2],
  ['EDQUOT', 1],
] as const) {
  test.serial(
    `${code} pauses the run, says so to everyone, and nothing is lost when there is room`,
    async (t) => {
      const digest = await undisturbed(t);
      const place = placeOf(t, { coordinator: { port: 0, step_deadline_ms: 300 } });
      const trainer = new StandInTrainer(place.run);
      const { result, failures } = await withFullDisk(t, place, trainer, code, times);
      t.is(result.error, null);
      t.is(failures, times);
      t.is(trainer.state.digest, digest);
      const full = code === 'EDQUOT' ? 'the disk quota is used up for' : 'the disk is full: \\d.* free for';
      const paused = new RegExp(
        `paused: ${full} \\S+/run/journal, which needs [\\d.]+ \\w+; the run goes on when there is room`,
      );
      const lines = result.said.filter((line) => paused.test(line));
      t.is(lines.length, 1, result.said.join(''));
      t.true(
        trainer.notices.some((text) => paused.test(text)),
        trainer.notices.join('\n'),
      );
      t.true(trainer.notices.some((text) => /the run goes on after a pause of \d/.test(text)));
      await checkWhole(t, place, code);
    },
  );
}

test.serial(
  'lines of metrics for which there is no room are kept, and written in order when there is',
  async (t) => {
    const place = placeOf(t, { checkpoint: { every: 0 }, steps: 3 });
    const trainer = new StandInTrainer(place.run);
    let [isRunning, failures] = [false, 0];
    // Once records come, all that is written but them are lines, until the last checkpoint is begun.
    const disk = await FaultyDisk.install(({ name }) => {
      isRunning = (isRunning || name === 'writev') && name !== 'mkdtemp';
      if (!isRunning || name !== 'write') return null;
      failures++;
      return 'ENOSPC';
    });
    const { error, said } = await runTo(t, place, trainer);
    disk.restore();
    t.is(error, null);
    t.true(failures > 0);
    const told = said.filter((text) =>
      /metrics\.jsonl: no space left .*; the line is kept until there is/.test(text),
    );
    t.is(told.length, 1, said.join('\n'));
    t.notRegex(said.join('\n'), /are not written/);
    await checkWhole(t, place, 'metrics');
  },
);

test.serial('any other fault of the disk ends the coordinator, and the next start goes on', async (t) => {
  const digest = await undisturbed(t);
  for (const code of ['EIO', 'EROFS']) {
    const place = placeOf(t);
    const trainer = new StandInTrainer(place.run);
    const { result } = await withFullDisk(t, place, trainer, code, 1);
    t.true(result.error instanceof OperatingError, String(result.error));
    t.regex(String(result.error), new RegExp(`cannot append record \\d to \\S+\\.log: .*\\(${code}\\)`));
    const again = await runTo(t, place, trainer);
    t.is(again.error, null);
    t.is(trainer.state.digest, digest);
    await checkWhole(t, place, code);
  }
});

test.serial('a stop ends the pause: the step that was never announced is made again on resume', async (t) => {
  const digest = await undisturbed(t);
  const place = placeOf(t);
  const trainer = new StandInTrainer(place.run);
  let isFull = true;
  const { result } = await withFullDisk(
    t,
    place,
    trainer,
    () => (isFull ? 'ENOSPC' : null),
    1,
    (coordinator) => {
      coordinator.stop();
      isFull = false;
    },
  );
  t.is(result.summary?.outcome, 'stopped');
  t.is(result.summary?.step, 1);
  const again = await runTo(t, place, trainer);
  t.is(again.error, null);
  t.is(trainer.state.digest, digest);
  await checkWhole(t, place, 'stopped');
});

/**
 * From the update of step 2 on, writes of records fail `times` times; then there is room again. `onPause`: when the
 * pause has been told.
 */
async function withFullDisk(
  t: ExecutionContext,
  place: Place,
  trainer: StandInTrainer,
  code: string | (() => string | null),
  times: number,
  onPause: (coordinator: RunningCoordinator) => void = () => {},
): Promise<{ readonly result: Ran; readonly failures: number }> {
  let failures = 0;
  // Records are all that is written by writev.
  let records = 0;
  const decide: Decide = ({ name }) => {
    if (name !== 'writev' || ++records < 3) return null;
    const failure = typeof code === 'string' ? (failures < times ? code : null) : code();
    if (failure !== null) failures++;
    return failure;
  };
  const disk = await FaultyDisk.install(decide);
  try {
    const result = await runTo(t, place, trainer, (coordinator) => {
      trainer.onNotice = (text) => (text.startsWith('paused:') ? onPause(coordinator) : undefined);
    });
    return { result, failures };
  } finally {
    disk.restore();
  }
}
