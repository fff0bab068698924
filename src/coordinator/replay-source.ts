/**
 * What a trainer would be sent that joins a run at one of its checkpoints, read from the run directory without a
 * coordinator: the Welcome, the snapshot, the records. Reads only and takes no lock.
 */
import type { RunConfig } from '../config/schema.ts';
import { CheckpointError, ConfigError } from '../errors.ts';
import { parseModelConfig } from '../model/model-config.ts';
import type { WelcomeMessage } from '../protocol/messages.ts';
import { PROTOCOL_VERSIONS } from '../protocol/version.ts';
import { buildRunShape } from '../run-shape.ts';
import { snapshotFrames, snapshotHeader } from './feed.ts';
import { schemaHashOf } from './prepare-run.ts';
import { CONFIG_FILE } from './store/checkpoint-format.ts';
import { describeCheckpoint, listCheckpointSteps, openCheckpoint } from './store/checkpoint.ts';
import type { OpenCheckpoint } from './store/checkpoint.ts';
import type { AgreedHash } from './core/state.ts';
import { readMetrics } from './store/metrics-log.ts';
import { readFrames } from './store/journal-read.ts';
import { scanSoundPart, type RecordPlace, type SoundPart } from './store/journal-scan.ts';
import {
  describeRest,
  planReplay,
  type KnownCheckpoint,
  type NoReplay,
  type ReplayPlan,
  type ReplayWish,
} from './store/replay-plan.ts';
import type { RunDirectoryPaths } from './store/run-directory.ts';

/** A range of a run, ready to be read; close it at the end. */
export interface ReplaySource extends AsyncDisposable {
  readonly plan: ReplayPlan;
  readonly welcome: WelcomeMessage;
  /** The hash that the first checkpoint states of its weights. */
  readonly weightsSha256: string;
  /** What the trainers of the run said of their weights, by step. */
  readonly stateHashes: ReadonlyMap<number, string>;
  /** What a person should know, one sentence each. */
  readonly notices: readonly string[];
  /** The frames of the first checkpoint, then those of the records behind it. */
  snapshot(): AsyncGenerator<Uint8Array, void, void>;
  records(): AsyncGenerator<Uint8Array, void, void>;
}

/**
 * Finds the range, proves its first checkpoint by its hashes and its records by their checksums.
 * @throws CheckpointError that says what is missing or damaged and what can be replayed nevertheless;
 * ConfigError if there is no such range.
 */
export async function openReplay(
  run: RunDirectoryPaths,
  config: RunConfig,
  wish: ReplayWish,
): Promise<ReplaySource> {
  const checkpoints = await knownCheckpoints(run.checkpointsDir);
  const journal = await scanSoundPart(run.journalDir, { fromSequence: firstNeeded(checkpoints, wish) });
  const readable = { firstSequence: journal.firstSequence, records: journal.scan.records };
  for (;;) {
    const plan = planReplay(checkpoints, readable, wish);
    if (journal.fault !== null && (wish.toStep === null || 'fault' in plan)) {
      const rest = describeRest(checkpoints, readable, journal.laterSegments);
      throw new CheckpointError(journal.fault.path, `${journal.fault.message}; ${rest}`);
    }
    if ('fault' in plan) throw refusal(run.path, plan);
    const checkpoint = await openStart(run, plan, checkpoints, wish);
    if (checkpoint !== null) return await sourceOf(run, config, plan, checkpoint, journal);
  }
}

/** Ascending by step. */
async function knownCheckpoints(checkpointsDir: string): Promise<KnownCheckpoint[]> {
  const known: KnownCheckpoint[] = [];
  for (const step of await listCheckpointSteps(checkpointsDir)) {
    try {
      const { sequence } = await describeCheckpoint(checkpointsDir, step);
      known.push({ step, sequence, fault: null });
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      known.push({ step, sequence: null, fault: error.message });
    }
  }
  return known;
}

/** Segments before it may be damaged. */
function firstNeeded(checkpoints: readonly KnownCheckpoint[], { fromStep }: ReplayWish): number {
  const start = fromStep === null ? undefined : checkpoints.find(({ step }) => step === fromStep);
  return (start?.sequence ?? 0) + 1;
}

function refusal(path: string, { fault, option }: NoReplay): Error {
  if (option !== null) return new ConfigError(`${option} cannot be had of ${path}: ${fault}`);
  return new CheckpointError(path, `${path} cannot be replayed: ${fault}`);
}

/** Null, and noted in `checkpoints`, if it is damaged and another one may do. */
async function openStart(
  { checkpointsDir }: RunDirectoryPaths,
  { fromStep }: ReplayPlan,
  checkpoints: KnownCheckpoint[],
  wish: ReplayWish,
): Promise<OpenCheckpoint | null> {
  try {
    return await openCheckpoint(checkpointsDir, fromStep);
  } catch (error) {
    if (!(error instanceof CheckpointError) || wish.fromStep !== null) throw error;
    const index = checkpoints.findIndex(({ step }) => step === fromStep);
    checkpoints[index] = { step: fromStep, sequence: null, fault: error.message };
    return null;
  }
}

async function sourceOf(
  run: RunDirectoryPaths,
  config: RunConfig,
  plan: ReplayPlan,
  checkpoint: OpenCheckpoint,
  { scan, fault }: SoundPart,
): Promise<ReplaySource> {
  const modelJson = await checkpoint.readText(CONFIG_FILE);
  if (modelJson === null) throw new CheckpointError(checkpoint.path, `${checkpoint.path} has no config.json`);
  const model = parseModelConfig(JSON.parse(modelJson), `${checkpoint.path}/${CONFIG_FILE}`);
  const welcome: WelcomeMessage = {
    kind: 'welcome',
    protocolVersion: PROTOCOL_VERSIONS[0] ?? 0,
    runId: run.runId,
    runName: run.name,
    configJson: JSON.stringify(config),
    modelJson,
    schemaHash: schemaHashOf(buildRunShape(config, model)),
    heartbeatIntervalMs: config.coordinator.heartbeat_interval_ms,
    heartbeatTimeoutMs: config.coordinator.heartbeat_timeout_ms,
    snapshot: snapshotHeader(checkpoint),
  };
  const torn =
    scan.torn === null ? [] : [`${scan.torn.path}: ${scan.torn.bytes} bytes behind the last record`];
  const { firstSequence, lastSequence } = plan;
  const records = scan.records.filter(
    ({ sequence }) => sequence >= firstSequence && sequence <= lastSequence,
  );
  return {
    plan,
    welcome,
    weightsSha256: checkpoint.manifest.weightsSha256,
    stateHashes: await readStateHashes(run.metricsPath),
    notices: [...torn, ...(fault === null ? [] : [fault.message])],
    snapshot: () => snapshotFrames(checkpoint),
    records: () => framesOf(records),
    [Symbol.asyncDispose]: () => checkpoint.close(),
  };
}

async function readStateHashes(metricsPath: string): Promise<ReadonlyMap<number, string>> {
  const hashes = new Map<number, string>();
  for await (const { stateHash } of readMetrics(metricsPath)) {
    const { step, weightsSha256 } = (stateHash ?? {}) as Partial<AgreedHash>;
    if (typeof step === 'number' && typeof weightsSha256 === 'string') hashes.set(step, weightsSha256);
  }
  return hashes;
}

async function* framesOf(records: readonly RecordPlace[]): AsyncGenerator<Uint8Array, void, void> {
  for (const record of records) yield* readFrames(record);
}
