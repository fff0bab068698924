/**
 * The real coordinator on a disk that fails: killed between any two of its writes, without power, and full. Serial: the
 * disk is replaced for the whole process. The trainer is a stand-in that lives on and comes back with what it holds, as
 * real ones do.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { stringify } from 'yaml';
import { parseRunConfig } from '../../src/config/load.ts';
import type { RunConfig } from '../../src/config/schema.ts';
import type { RunningCoordinator, RunSummary } from '../../src/coordinator/api.ts';
import { startCoordinator } from '../../src/coordinator/coordinator.ts';
import { inspectRun } from '../../src/coordinator/store/inspect.ts';
import { coverRun } from '../../src/coordinator/store/inspect-coverage.ts';
import { OperatingError } from '../../src/errors.ts';
import { createLogger } from '../../src/log.ts';
import { parseLlamaConfig } from '../../src/model/llama-config.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { FaultyDisk, type Decide } from '../faulty-disk.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';
import type { TinyRun } from './tiny-run.ts';

const STEPS = 2;
/** Those of the bases, before step 1, too. */
const RECORDS = 3;
const TEXT = 'A text of a few words, and a few more. '.repeat(40);

/** What a run is made of, but for where it lies. Bases are generated, so records of both kinds come about. */
const DOCUMENT = {
  name: 'tiny',
  model: { hidden_size: 8, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2 },
  tokenizer: { type: 'byte' },
  seq_len: 8,
  batch_size: 2,
  method: { name: 'golore', rank: 2, update_proj_gap: 9, refresh: { stagger: false } },
  optimizer: { name: 'sgd', lr: 0.01 },
  wire: { codec: 'f32' },
  coordinator: { port: 0 },
  checkpoint: { every: 1, keep: 1 },
  steps: STEPS,
  seed: 7,
};

interface Place {
  readonly config: RunConfig;
  readonly cacheDir: string;
  readonly run: TinyRun;
}

/** In memory where there is such a place: hundreds of runs would wait for a real disk. */
const FOLDER = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'galore-test-'));
/** The text is tokenised once. */
const cacheDir = join(FOLDER, 'cache');
mkdirSync(cacheDir);
writeFileSync(join(cacheDir, 'text.txt'), TEXT);
test.after.always(() => rmSync(FOLDER, { recursive: true, force: true }));

/** A run of its own in a new directory. */
function placeOf(t: ExecutionContext, more: object = {}): Place {
  const folder = mkdtempSync(join(FOLDER, 'run-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const data = { path: join(cacheDir, 'text.txt'), validation_fraction: 0 };

  const document = { ...DOCUMENT, data, dir: join(folder, 'run'), ...more };
  const config = parseRunConfig(stringify(document), 'run.yaml', { workingDir: folder, homeDir: folder });
  const model = parseLlamaConfig(
    { ...DOCUMENT.model, vocab_size: 256, num_key_value_heads: 2, model_type: 'llama' },
    'model',
  );
  const shape = buildRunShape(config, model);
  const projected = shape.slots.filter(({ policy }) => policy === 'one-sided').map(({ index }) => index);
  return { config, cacheDir, run: { config, shape, projected } };
}

interface Ran {
  readonly coordinator: RunningCoordinator | null;
  readonly summary: RunSummary | null;
  /** Why it ended before its time; null: it did not. */
  readonly error: unknown;
  readonly said: readonly string[];
}

/** Starts the coordinator, new or resumed as it finds the directory, and has the trainer take part to the end. */
async function runTo(
  t: ExecutionContext,
  { config, cacheDir }: Place,
  trainer: StandInTrainer,
  during: (coordinator: RunningCoordinator, said: readonly string[]) => void = () => {},
): Promise<Ran> {
  const said: string[] = [];
  const logger = createLogger({
    ...{ level: 'info', format: 'text', mayColour: false },
    write: (line) => said.push(line),
  });
  let coordinator: RunningCoordinator | null = null;
  try {
    const mode = hasCheckpoint(config.dir) ? 'resume' : 'new';
    coordinator = await startCoordinator({
      ...{ config, mode, cacheDir, logger },
      onReport: (report) => (report.type === 'notice' ? said.push(report.text) : undefined),
    });
    const finished = coordinator.finished;
    const settled = finished.then(
      () => {},
      () => {},
    );
    during(coordinator, said);
    await trainer.takePart(t, coordinator.url).catch((error: unknown) => {
      trainer.leave();
      if (!/ECONNREFUSED|ECONNRESET|hang up/.test(String(error))) t.fail(String(error));
    });
    await settled;
    return { coordinator, summary: await finished, error: null, said };
  } catch (error) {
    return { coordinator, summary: null, error, said };
  }
}

function hasCheckpoint(dir: string): boolean {
  const path = join(dir, 'checkpoints');
  return existsSync(path) && readdirSync(path).some((name) => name.startsWith('step-'));
}

/** What must be true of a run that has ended, whatever came before. */
async function checkWhole(t: ExecutionContext, { config }: Place, trainer: StandInTrainer, what: string) {
  const metrics = readFileSync(join(config.dir, 'metrics.jsonl'), 'utf8').trim().split('\n');
  t.deepEqual(
    metrics.map((line) => (JSON.parse(line) as { step: number }).step),
    Array.from({ length: STEPS }, (_, i) => i + 1),
    what,
  );
  const inspection = await inspectRun(config.dir);
  t.is(inspection.step, STEPS, what);
  const faults = [inspection.journal.fault, ...inspection.checkpoints.map(({ fault }) => fault)];
  t.deepEqual(
    faults.filter((fault) => fault !== null),
    [],
    what,
  );
  t.deepEqual((await coverRun(config.dir)).faults, [], what);
  t.is(trainer.state.sequence, RECORDS, what);
}

/** The digest of the last record of a run that nothing happens to. */
async function undisturbed(t: ExecutionContext): Promise<string> {
  const place = placeOf(t);
  const trainer = new StandInTrainer(place.run);
  const { error } = await runTo(t, place, trainer);
  t.is(error, null);
  await checkWhole(t, place, trainer, 'undisturbed');
  return trainer.state.digest;
}

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
        await checkWhole(t, place, trainer, `call ${n}`);
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
      await checkWhole(t, place, trainer, code);
    },
  );
}

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
    await checkWhole(t, place, trainer, code);
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
  await checkWhole(t, place, trainer, 'stopped');
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
    const result = await runTo(t, place, trainer, (coordinator, said) => {
      const look = setInterval(() => {
        if (!said.some((line) => line.includes('paused:'))) return;
        clearInterval(look);
        onPause(coordinator);
      }, 20);
      t.teardown(() => clearInterval(look));
    });
    return { result, failures };
  } finally {
    disk.restore();
  }
}
