/** What a coordinator makes of a run directory that was damaged, taken back to an earlier day, or lies on a bad disk. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { inspectRun } from '../../src/coordinator/store/inspect.ts';
import { FaultyDisk } from '../faulty-disk.ts';
import { checkWhole, placeOf, runTo, undisturbed, type Place } from '../support/stand-in-run.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';

/** Flips a bit of the last number. */
function damage(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(path, bytes);
}

const namesIn = ({ config }: Place, folder: string): string[] => {
  const path = join(config.dir, folder);
  return existsSync(path) ? readdirSync(path).sort() : [];
};
const checkpointsOf = (place: Place): string[] => namesIn(place, 'checkpoints');
const segmentsOf = (place: Place): string[] => namesIn(place, 'journal');

test.serial(
  'a checkpoint that reads back damaged is deleted, and neither an older one nor a record is',
  async (t) => {
    const digest = await undisturbed(t);
    const place = placeOf(t);
    const trainer = new StandInTrainer(place.run);
    const seen: string[][] = [];
    let renames = 0;
    // Just before the checkpoint of step 1 gets its name, a bit of its weights flips.
    const disk = await FaultyDisk.install(({ name }) => {
      if (name !== 'rename') return null;
      const [folder] = checkpointsOf(place).filter((each) => each.startsWith('.tmp-step-000001-'));
      if (folder !== undefined && renames++ === 0)
        damage(join(place.config.dir, 'checkpoints', folder, 'model.safetensors'));
      else seen.push([...checkpointsOf(place), ...segmentsOf(place)]);
      return null;
    });
    const { error, said } = await runTo(t, place, trainer);
    disk.restore();
    t.is(error, null);
    t.true(renames > 0);
    t.regex(
      said.join(''),
      /the checkpoint of step 1 could not be written: checkpoint \S+ is damaged: model\.safetensors has SHA-256/,
    );
    // The next one made the first superfluous; before that it and all records were there.
    t.deepEqual(checkpointsOf(place), ['step-000002']);
    const then = seen.find(([first]) => first?.startsWith('.tmp-step-000002-'));
    t.deepEqual(then?.slice(1), ['step-000000', '0000000001.log'], seen.join('\n'));
    t.is(trainer.state.digest, digest);
    await checkWhole(t, place, 'damaged');
  },
);

test.serial(
  'with two checkpoints kept the run goes on from either, and one that is damaged does not count as kept',
  async (t) => {
    const keep = { checkpoint: { every: 1, keep: 2 } };
    const digest = await undisturbed(t, { ...keep, steps: 4 });
    const place = placeOf(t, { ...keep, steps: 3 });
    t.is((await runTo(t, place, new StandInTrainer(place.run))).error, null);
    // That of step 2 is left out when the one before it is still under way.
    const [older, newest] = checkpointsOf(place);
    t.is(newest, 'step-000003');
    damage(join(place.config.dir, 'checkpoints', 'step-000003', 'model.safetensors'));
    const longer = placeOf(t, { ...keep, steps: 4 }, place.folder);
    const trainer = new StandInTrainer(longer.run);
    const { error, said } = await runTo(t, longer, trainer);
    t.is(error, null);
    t.regex(said.join('\n'), /step-000003 is damaged: .*; trying the checkpoint before it/);
    t.is(trainer.state.digest, digest);
    t.deepEqual(checkpointsOf(place), [older, 'step-000003', 'step-000004']);
    // The newest is damaged, too: the records behind the one that is left are all there.
    damage(join(place.config.dir, 'checkpoints', 'step-000004', 'model.safetensors'));
    const again = new StandInTrainer(longer.run);
    t.is((await runTo(t, longer, again)).error, null);
    t.is(again.state.digest, digest);
    await checkWhole(t, longer, 'twice damaged');
  },
);

test.serial(
  'a trainer ahead of a journal that was taken back gets the state of the journal, and the steps are made again',
  async (t) => {
    const digest = await undisturbed(t, { steps: 4 });
    const place = placeOf(t, { steps: 1 });
    const upTo = (steps: number): Place => placeOf(t, { steps }, place.folder);
    const [a, b] = [new StandInTrainer(place.run, 'a'), new StandInTrainer(place.run, 'b')];
    t.is((await runTo(t, place, a)).error, null);
    const { dir } = place.config;
    cpSync(dir, `${dir}-backup`, { recursive: true });
    const takeBack = (): void => {
      rmSync(dir, { recursive: true });
      cpSync(`${dir}-backup`, dir, { recursive: true });
    };
    t.is((await runTo(t, upTo(3), b)).error, null);
    t.like(b, { snapshots: 1, state: { sequence: 4 } });

    takeBack();
    t.is((await runTo(t, upTo(3), b)).error, null);
    t.like(b, { snapshots: 2, state: { sequence: 4 } }, 'it was ahead by two records');
    await checkWhole(t, upTo(3), 'ahead');

    takeBack();
    t.is((await runTo(t, upTo(3), a)).error, null);
    t.is(a.snapshots, 1, 'what it held is the journal');
    t.is(a.state.sequence, b.state.sequence);
    t.not(a.state.digest, b.state.digest);
    t.is((await runTo(t, upTo(4), b)).error, null);
    t.is(b.snapshots, 3, 'the journal has a record of that number, but another');
    await checkWhole(t, upTo(4), 'of another history');

    takeBack();
    t.is((await runTo(t, upTo(4), a)).error, null);
    t.is(a.snapshots, 2);
    t.is(a.state.digest, digest);
  },
);

test.serial(
  'a copy of the directory of a run that goes on, its journal first, is the same run up to then',
  async (t) => {
    const settings = { checkpoint: { every: 1, keep: 1 }, steps: 8 };
    const place = placeOf(t, settings);
    const trainer = new StandInTrainer(place.run);
    const copy = placeOf(t, settings);
    const take = (part: string): void =>
      cpSync(join(place.config.dir, part), join(copy.config.dir, part), { recursive: true });
    trainer.onRecord = (sequence) => {
      if (sequence === 4) take('journal');
      if (sequence === 7) ['checkpoints', 'run.yaml', 'run-id.json', 'metrics.jsonl'].forEach(take);
    };
    t.is((await runTo(t, place, trainer)).error, null);
    const other = new StandInTrainer(place.run);
    t.is((await runTo(t, copy, other)).error, null);
    t.is(other.state.digest, trainer.state.digest);
    t.is((await inspectRun(copy.config.dir)).step, 8);
  },
);

test.serial('setting the clock of the machine by hours does nothing to a run', async (t) => {
  const digest = await undisturbed(t, { steps: 3 });
  const real = globalThis.Date;
  let looks = 0;
  /** Three hours ahead and back, from one look to the next. */
  class JumpingDate extends real {
    constructor(...given: [] | [number]) {
      super(given.length === 0 ? JumpingDate.now() : given[0]);
    }
    static override now(): number {
      return real.now() + (++looks % 2 === 0 ? 1 : -1) * 3 * 3_600_000;
    }
  }
  const timers = { step_deadline_ms: 2_000, heartbeat_interval_ms: 100, heartbeat_timeout_ms: 1_000 };
  const place = placeOf(t, { steps: 3, coordinator: { port: 0, ...timers } });
  const trainer = new StandInTrainer(place.run);
  globalThis.Date = JumpingDate as DateConstructor;
  try {
    const { error, said } = await runTo(t, place, trainer);
    t.is(error, null);
    t.notRegex(said.join(''), /TIMEOUT| is late|is lost/);
  } finally {
    globalThis.Date = real;
  }
  t.true(looks > 3, `the clock was looked at ${looks} times`);
  t.is(trainer.state.digest, digest);
  await checkWhole(t, place, 'jumping');
});
