/**
 * Runs of the real coordinator, in this process, with a stand-in for its trainer (stand-in-trainer.ts): real sockets, real
 * files, in a tenth of a second. One after the other in a file: the directory of a run is named by its test.
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
import { createLogger } from '../../src/log.ts';
import { parseLlamaConfig } from '../../src/model/llama-config.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import type { TinyRun } from '../coordinator/tiny-run.ts';
import { StandInTrainer } from './stand-in-trainer.ts';

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
  steps: 2,
  seed: 7,
};

export interface Place {
  readonly folder: string;
  readonly config: RunConfig;
  readonly run: TinyRun;
}

/** In memory where there is such a place: hundreds of runs would wait for a real disk. */
const FOLDER = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'galore-test-'));
/** The text is tokenised once. */
const cacheDir = join(FOLDER, 'cache');
mkdirSync(cacheDir);
writeFileSync(join(cacheDir, 'text.txt'), TEXT);
test.after.always(() => rmSync(FOLDER, { recursive: true, force: true }));

/** A run of its own in a new directory, or, with other settings, in the `folder` of another. */
export function placeOf(t: ExecutionContext, more: object = {}, given: string | null = null): Place {
  const folder = given ?? mkdtempSync(join(FOLDER, 'run-'));
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
  return { folder, config, run: { config, shape, projected } };
}

/** How a run went. */
export interface Ran {
  readonly coordinator: RunningCoordinator | null;
  readonly summary: RunSummary | null;
  /** Why it ended before its time; null: it did not. */
  readonly error: unknown;
  readonly said: readonly string[];
}

/** Starts the coordinator, new or resumed as it finds the directory, and has the trainer take part to the end. */
export async function runTo(
  t: ExecutionContext,
  { config }: Place,
  trainer: StandInTrainer,
  during: (coordinator: RunningCoordinator) => void = () => {},
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
    during(coordinator);
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
export async function checkWhole(t: ExecutionContext, { config }: Place, what: string): Promise<void> {
  const metrics = readFileSync(join(config.dir, 'metrics.jsonl'), 'utf8').trim().split('\n');
  t.deepEqual(
    metrics.map((line) => (JSON.parse(line) as { step: number }).step),
    Array.from({ length: config.steps }, (_, i) => i + 1),
    what,
  );
  const inspection = await inspectRun(config.dir);
  t.is(inspection.step, config.steps, what);
  const faults = [inspection.journal.fault, ...inspection.checkpoints.map(({ fault }) => fault)];
  t.deepEqual(
    faults.filter((fault) => fault !== null),
    [],
    what,
  );
  t.deepEqual((await coverRun(config.dir)).faults, [], what);
}

/** The digest of the last record of a run that nothing happens to. */
export async function undisturbed(t: ExecutionContext, more: object = {}): Promise<string> {
  const place = placeOf(t, more);
  const trainer = new StandInTrainer(place.run);
  const { error } = await runTo(t, place, trainer);
  t.is(error, null);
  await checkWhole(t, place, 'undisturbed');
  return trainer.state.digest;
}
