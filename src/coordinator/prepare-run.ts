/**
 * Everything that must be there before the first event: data, tokenizer, model, slot table, run
 * directory, the checkpoint of step 0, journal. The same for a new run and for one that goes on.
 */
import { createHash, randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { resolvedYaml } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError, ConfigError } from '../errors.ts';
import { writeFileAtomic } from '../files/atomic.ts';
import { baseHash } from '../files/base-weights.ts';
import { dataOptions, prepareDataset, type Dataset } from '../files/dataset.ts';
import { byteTokenizer, checkVocabulary, loadTokenizer, type Tokenizer } from '../files/tokenizer.ts';
import type { SiteFacts } from '../protocol/messages.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { describeSlots } from '../galore/slot.ts';
import { parseModelConfig, toConfigJson } from '../model/model-config.ts';
import { buildRunShape, type RunShape } from '../run-shape.ts';
import type { Authority, CoordinatorOptions } from './api.ts';
import { checkTargets } from './check-targets.ts';
import type { SlotBasis } from './core/state.ts';
import { newModel, openAdapterOf, writeFirstCheckpoint } from './new-run.ts';
import { refreshedSlots, schedulePlanOf } from './plan.ts';
import { restoreCounted, type CountedSteps } from './counted-steps.ts';
import { restoreBases } from './restore-bases.ts';
import {
  leadSoon,
  isKeptElsewhere,
  openRun,
  openStateStore,
  thisHolder,
  type Opening,
} from './open-authority.ts';
import { restoreMetrics } from './restore-metrics.ts';
import { siteFacts } from './site-facts.ts';
import { TensorBoardLog } from './tensorboard-log.ts';
import { RunHistory } from '../view/run-history.ts';
import { planNotice, trafficNotice } from './traffic-notice.ts';
import { trafficPlan } from './traffic-plan.ts';
import {
  openNewestCheckpoint,
  removeCheckpointLeftovers,
  type CheckpointTexts,
  type OpenCheckpoint,
  type VerifiedStamps,
  type RunFacts,
} from './store/checkpoint.ts';
import type { Lease } from './store/state-store.ts';
import { FileStateStore } from './store/file-store.ts';
import { Journal, type RecordSummary } from './store/journal.ts';
import { restoreLines } from './store/line-copies.ts';
import { MetricsLog } from './store/metrics-log.ts';
import { findResumePoint, type ResumePoint } from './store/resume-point.ts';
import { storeClock } from './store/store-clock.ts';
import { createRunDirectory, openRunDirectory, type RunDirectory } from './store/run-directory.ts';

/** Where the run stands, with what its records say of the slots' bases and of who was counted when. */
export interface StartPoint extends ResumePoint {
  readonly bases: readonly SlotBasis[];
  readonly counted: CountedSteps | null;
}

/** @param frames encoded, the Commit last */
export type CommitRecord = (frames: readonly Uint8Array[], summary: RecordSummary) => Promise<void>;

/** All that a coordinator works with; close it at the end. */
export interface PreparedRun {
  readonly config: RunConfig;
  readonly runId: string;
  readonly metrics: MetricsLog;
  readonly evaluations: MetricsLog;
  /** All lines of these two files, those that are to come too. */
  readonly history: RunHistory;
  readonly checkpointsDir: string;
  readonly journal: Journal;
  /** Who decides that a record is committed: the run directory, or a store that it mirrors. */
  readonly authority: Authority;
  /** Commits a record. When it resolves, the journal has it too. @throws as StateStore.append, Journal.append */
  readonly commit: CommitRecord;
  /** Null where every trainer has data of its own. */
  readonly dataset: Dataset | null;
  /** The hash of the model folder that the run began with, where trainers may ask for it; else empty. */
  readonly baseSha256: string;
  /** What trainers with data of their own are told; null: they have none. */
  readonly site: SiteFacts | null;
  readonly modelJson: string;
  readonly shape: RunShape;
  readonly schemaHash: Uint8Array;
  readonly texts: CheckpointTexts;
  /** The newest good checkpoint with the journal on top of it. */
  readonly start: StartPoint;
  readonly newestCheckpoint: { readonly step: number; readonly path: string; readonly weightsSha256: string };
  /** Of the checkpoints that were read back for this. */
  readonly verified: VerifiedStamps;
  close(): Promise<void>;
  /** After close: takes back what this start has written, so that one that failed can be tried again. */
  undo(): Promise<void>;
}

/** Closes what was opened, newest first, when preparing fails half-way or the run ends. */
class Closers {
  /** Takes back what was written; set once there is something. */
  undo: () => Promise<void> = () => Promise.resolve();
  readonly #closers: (() => Promise<void>)[] = [];
  add(close: () => Promise<void>): void {
    this.#closers.push(close);
  }
  /** Closes everything, newest first, then throws the first error there was. */
  async closeAll(): Promise<void> {
    const errors: unknown[] = [];
    for (let close = this.#closers.pop(); close !== undefined; close = this.#closers.pop()) {
      await close().catch((error: unknown) => errors.push(error));
    }
    if (errors.length > 0) throw errors[0];
  }
}

/** Prepares a new run, or opens one that goes on. */
export async function prepareRun(options: CoordinatorOptions): Promise<PreparedRun> {
  const closers = new Closers();
  try {
    return await prepare(options, closers);
  } catch (error) {
    await closers.closeAll().catch(() => {}); // the first error is the one to tell
    await closers.undo();
    throw error;
  }
}

async function prepare(options: CoordinatorOptions, closers: Closers): Promise<PreparedRun> {
  const { config, onReport } = options;
  const onNotice = (text: string): void => onReport({ type: 'notice', text });
  const opening = await openElsewhere(options, closers);
  const mode = opening === null ? options.mode : opening.type === 'goesOn' ? 'resume' : 'new';
  const directory = mode === 'resume' ? await openRunDirectory(config.dir, onNotice) : null;
  if (directory !== null) closers.add(() => directory.close());
  const { dataset, tokenizer } = await openData(options);
  if (dataset !== null) closers.add(() => dataset.close());
  const begun =
    directory === null ? await createRun(options, { dataset, tokenizer }, opening, closers) : null;
  const run = begun?.directory ?? directory!;
  const { checkpointsDir } = run;
  await removeCheckpointLeftovers(checkpointsDir);
  const verified: VerifiedStamps = new Map();
  const checkpoint = await openNewestCheckpoint(checkpointsDir, onNotice, verified);
  if (checkpoint === null) {
    throw new CheckpointError(
      run.path,
      `${run.path} holds no checkpoint: its start was cut off; start the run anew, here (--dir) or elsewhere`,
    );
  }
  closers.add(() => checkpoint.close()); // a second time does nothing
  const journal = await Journal.open(run.journalDir, onNotice);
  closers.add(() => journal.close());
  const elsewhere = begun?.authority ?? (opening?.type === 'goesOn' ? opening.authority : null);
  const authority = elsewhere ?? FileStateStore.leading(run.path, journal, thisHolder(), storeClock);
  if (begun !== null) await authority.store.checkpoints.put(authority.lease, checkpointsDir, checkpoint.step);
  const { modelJson, texts } = await readTexts(checkpoint, tokenizer);
  const model = parseModelConfig(JSON.parse(modelJson), join(checkpoint.path, 'config.json'));
  const point = await findResumePoint(checkpoint.run, journal, onNotice);
  const shape = buildRunShape(config, model);
  const bases = await restoreBases(checkpoint.run, journal, schedulePlanOf(config), refreshedSlots(shape));
  const counted = shape.slots.some(hasLocalState) ? await restoreCounted(checkpoint.run, journal) : null;
  const start = { ...point, bases, counted };
  if (config.steps < start.step) {
    const rule = `at least ${start.step}: the run in ${run.path} has come that far`;
    const fault = { field: 'steps', value: String(config.steps), allowed: rule };
    throw new ConfigError(`steps is ${config.steps}; it must be ${rule}`, [fault]);
  }
  if (shape.slots.some(hasLocalState) && checkpoint.step < start.step) {
    onNotice(
      `the checkpoint is of step ${checkpoint.step}, the journal goes on to step ${start.step}: ` +
        'what the trainers keep of their gradients begins with zeros',
    );
  }
  const { path, step, manifest } = checkpoint;
  const { baseSha256 = '' } = checkpoint.run;
  await checkpoint.close();
  const history = new RunHistory();
  const board = config.tensorboard ? await TensorBoardLog.open(run.path, start.step, options.logger) : null;
  if (board !== null) closers.add(() => board.close());
  const metrics = await MetricsLog.open(run.metricsPath, start.step, (line) => {
    history.addStep(line);
    board?.addStep(line);
  });
  closers.add(() => metrics.close());
  await restoreLines(metrics, path, start.step);
  await restoreMetrics(metrics, journal, start.step);
  const evaluations = await MetricsLog.open(run.evaluationsPath, start.step, (line) => {
    history.addEvaluation(line);
    board?.addEvaluation(line);
  });
  closers.add(() => evaluations.close());
  await restoreLines(evaluations, path, start.step);
  const notice = trafficNotice(config, shape);
  if (notice !== null) onNotice(notice);
  if (mode === 'new') onNotice(planNotice(trafficPlan(config, shape, config.coordinator.start_trainers)));
  // What was changed for going on holds the next time too.
  if (mode === 'resume') {
    const path = join(run.path, 'run.yaml');
    await writeFileAtomic(path, resolvedYaml(config));
    // Why the start failed is the better explanation.
    closers.undo = () => writeFileAtomic(path, run.configYaml).catch(() => {});
  }
  return {
    config,
    runId: run.runId,
    metrics,
    evaluations,
    history,
    checkpointsDir,
    journal,
    authority,
    commit: committer(authority, elsewhere === null ? null : journal),
    dataset,
    site: config.data.local ? siteFacts(texts.tokenizerJson, baseSha256) : null,
    baseSha256,
    modelJson,
    shape,
    schemaHash: schemaHashOf(shape),
    texts,
    start,
    newestCheckpoint: { step, path, weightsSha256: manifest.weightsSha256 },
    verified,
    close: () => closers.closeAll(),
    undo: () => closers.undo(),
  };
}

/** The hash that both sides compare in the handshake: of everything they derive from model and method. */
export function schemaHashOf(shape: RunShape): Uint8Array {
  return new Uint8Array(createHash('sha256').update(describeSlots(shape.slots)).digest());
}

/** Facts of a checkpoint at a committed step. */
export function factsOf(
  run: Pick<PreparedRun, 'runId' | 'config' | 'dataset' | 'baseSha256'>,
  at: StartPoint,
  members: readonly string[],
): RunFacts {
  return {
    runId: run.runId,
    name: run.config.name,
    step: at.step,
    sequence: at.sequence,
    digest: Buffer.from(at.digest).toString('hex'),
    refreshedStep: at.refreshedStep,
    ...(at.bases.length === 0 ? {} : { bases: at.bases }),
    cursor: at.cursor,
    ...(run.dataset === null ? {} : { epochSequences: run.dataset.train.count }),
    ...(run.baseSha256 === '' ? {} : { baseSha256: run.baseSha256 }),
    seed: run.config.seed,
    schedulePosition: at.step,
    members,
    ...(at.counted === null ? {} : { counted: Object.fromEntries(at.counted) }),
    created: new Date().toISOString(),
  };
}

/** The tokenizer of the run, and the data where the coordinator has it. */
export interface RunData {
  readonly dataset: Dataset | null;
  readonly tokenizer: Tokenizer;
}

export async function openData({ config, cacheDir, onReport }: CoordinatorOptions): Promise<RunData> {
  if (config.data.local) {
    const { type, path } = config.tokenizer;
    return { dataset: null, tokenizer: type === 'byte' ? byteTokenizer() : loadTokenizer(path!) };
  }
  const dataset = await prepareDataset({
    data: dataOptions(config.data),
    labels: config.task.labels,
    tokenizer: config.tokenizer,
    seqLen: config.seq_len,
    cacheDir: config.data.cache_dir ?? join(cacheDir, 'tokens'),
    onProgress: (text, share) => onReport({ type: 'progress', text, share }),
  });
  for (const text of dataset.notices) onReport({ type: 'notice', text });
  return { dataset, tokenizer: dataset.tokenizer };
}

/** Null: the run is kept in its directory alone. */
async function openElsewhere(options: CoordinatorOptions, closers: Closers): Promise<Opening | null> {
  if (!isKeptElsewhere(options)) return null;
  const store = options.authority?.store ?? (await openStateStore(options));
  closers.add(() => store.close());
  return await openRun(store, options);
}

/** @param mirror of a run that is kept elsewhere; holds all that is committed */
function committer({ store, lease }: Authority, mirror: Journal | null): CommitRecord {
  if (mirror === null) return (frames, summary) => store.append(lease, frames, summary);
  let committed = mirror.nextSequence - 1;
  return async (frames, summary) => {
    // A disk that was full here: the record is committed all the same, and only the mirror lacks it.
    if (summary.sequence > committed) await store.append(lease, frames, summary);
    committed = summary.sequence;
    await mirror.append(frames, summary);
  };
}

/** A run that has just begun. */
interface BegunRun {
  readonly directory: RunDirectory;
  /** Null: its directory is all there is. */
  readonly authority: Authority | null;
}

async function createRun(
  options: CoordinatorOptions,
  { dataset, tokenizer }: RunData,
  opening: Opening | null,
  closers: Closers,
): Promise<BegunRun> {
  const { config } = options;
  const model = await newModel(config, tokenizer);
  checkVocabulary(tokenizer, model.vocabSize);
  const shape = buildRunShape(config, model);
  checkTargets(config, shape, model);
  await (await openAdapterOf(config, shape.parameters))?.[Symbol.asyncDispose]();
  const runId = randomUUID();
  const identity = { runId, name: config.name, configYaml: resolvedYaml(config) };
  const directory = await createRunDirectory(config.dir, identity);
  closers.add(() => directory.close());
  closers.undo = () => directory.discard();
  let authority: Authority | null = null;
  if (opening?.type === 'begins') {
    const { store, lease } = opening;
    const create = (signal: AbortSignal): Promise<Lease> => store.createRun(identity, thisHolder(), signal);
    const led = lease === null ? leadSoon(store, config, create) : store.restartRun(lease, identity);
    authority = { store, lease: await led };
  }
  const { path } = config.model;
  const facts = {
    runId,
    ...(dataset === null ? {} : { epochSequences: dataset.train.count }),
    ...(config.data.local && path !== undefined
      ? { baseSha256: await baseHash(path, model, config.seed) }
      : {}),
  };
  const texts = {
    configJson: JSON.stringify(toConfigJson(model), null, 2),
    ...(tokenizer.json === null ? {} : { tokenizerJson: tokenizer.json }),
  };
  const weights = { model, table: shape.parameters };
  await writeFirstCheckpoint(directory.checkpointsDir, config, weights, facts, texts, (text) =>
    options.onReport({ type: 'notice', text }),
  );
  return { directory, authority };
}

/** The texts that every checkpoint carries, from the newest one; the tokenizer must still be that of the data. */
async function readTexts(
  checkpoint: OpenCheckpoint,
  tokenizer: Tokenizer,
): Promise<{ modelJson: string; texts: CheckpointTexts }> {
  const modelJson = await checkpoint.readText('config.json');
  if (modelJson === null) throw new CheckpointError(checkpoint.path, `${checkpoint.path} has no config.json`);
  const tokenizerJson = await checkpoint.readText('tokenizer.json');
  if (tokenizerJson !== null && tokenizer.json !== null && tokenizerJson !== tokenizer.json) {
    throw new CheckpointError(
      checkpoint.path,
      `the data gives another tokenizer than the one in ${checkpoint.path}: has data.path changed since the run began?`,
    );
  }
  return {
    modelJson,
    texts: { configJson: modelJson, ...(tokenizerJson === null ? {} : { tokenizerJson }) },
  };
}
