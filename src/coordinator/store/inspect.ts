/**
 * What a run directory holds, for people and programs. Only reads, takes no lock: works while the run
 * goes on, after it, and when parts of it are damaged.
 */
import { basename, join } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { CheckpointError } from '../../errors.ts';
import { describeCheckpoint, listCheckpointSteps, openCheckpoint } from './checkpoint.ts';
import { checkpointName } from './checkpoint-format.ts';
import { readLockOwner } from './directory-lock.ts';
import type { Liveness } from './directory-lock.ts';
import { inspectMethod } from './inspect-method.ts';
import type { InspectedMethod } from './inspect-method.ts';
import type { CommitFacts } from './journal-format.ts';
import { scanJournal } from './journal-scan.ts';
import type { JournalScan } from './journal-scan.ts';
import { MembershipFold, type StepSpan, type TrainerPart } from './membership.ts';
import { readMetrics } from './metrics-log.ts';
import { addTraffic } from '../traffic.ts';
import type { TrafficReport } from '../traffic.ts';
import { readRunDirectory } from './run-directory.ts';
import type { RunDirectoryPaths } from './run-directory.ts';

/** A checkpoint in an inspection; `fault` says what is wrong with it. */
export interface InspectedCheckpoint {
  readonly step: number;
  readonly sequence: number | null;
  readonly bytes: number | null;
  /** Of what each trainer kept of its gradients, by trainer id; in `bytes` too. */
  readonly feedbackBytes: Readonly<Record<string, number>>;
  readonly weightsSha256: string | null;
  readonly created: string | null;
  readonly fault: string | null;
}

/** A journal file in an inspection. */
export interface InspectedSegment {
  readonly file: string;
  readonly firstSequence: number;
  readonly lastSequence: number | null;
  readonly bytes: number;
}

/** The journal in an inspection. */
export interface InspectedJournal {
  readonly segments: readonly InspectedSegment[];
  readonly records: number;
  readonly bytes: number;
  /** Behind the last complete record: being written, or left by a crash. */
  readonly tornBytes: number;
  readonly fault: string | null;
}

/** Everything `galore inspect` shows. Null: not known. */
export interface Inspection {
  readonly path: string;
  readonly name: string;
  readonly runId: string;
  /** Committed steps. */
  readonly step: number;
  readonly totalSteps: number | null;
  readonly seed: number | null;
  readonly codec: string | null;
  /** What updates the weights and what it keeps. */
  readonly method: InspectedMethod | null;
  /** Whether a coordinator holds the directory. */
  readonly coordinator: 'running' | 'not running' | 'unknown';
  /** Step and weights of the newest checkpoint that is sound. */
  readonly checkpointStep: number | null;
  readonly weightsSha256: string | null;
  /** Trainers of the last step. */
  readonly trainers: number;
  /** Their ids, as far as the journal still has the step. */
  readonly trainerIds: readonly string[];
  /** Who took part in the steps that the journal has, when, and with how much. */
  readonly members: readonly TrainerPart[];
  /** These steps; null: it has none. */
  readonly memberSteps: StepSpan | null;
  readonly lastLoss: number | null;
  /** Numbers of a contribution in the last step, and the mean rank of the slots with a basis (0: none has). */
  readonly payloadNumbers: number | null;
  readonly meanRank: number | null;
  /** Sums over all steps in metrics.jsonl. */
  readonly tokens: number;
  readonly seconds: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  /** The same by trainer, direction, kind and policy. */
  readonly traffic: TrafficReport;
  readonly checkpoints: readonly InspectedCheckpoint[];
  readonly journal: InspectedJournal;
}

/**
 * Inspects the run in `dir`. With `isFull` every byte of journal and checkpoints is checked against its
 * checksum, which takes as long as reading them; without, sizes and structure are.
 * @throws CheckpointError when `dir` is not a run directory. Damage within it is reported as a fault.
 */
export async function inspectRun(
  dir: string,
  { isFull = false }: { readonly isFull?: boolean } = {},
): Promise<Inspection> {
  const run = await readRunDirectory(dir);
  const { scan, fault, members, memberSteps } = await readJournal(run, isFull);
  const checkpoints = await readCheckpoints(run, isFull);
  const newest = checkpoints.findLast((checkpoint) => checkpoint.fault === null);
  const metrics = await sumMetrics(run.metricsPath);
  const lastUpdate = scan?.head?.lastUpdate ?? null;
  const lock = await readLockOwner(dir);
  return {
    path: run.path,
    name: run.name,
    runId: run.runId,
    step: Math.max(scan?.head?.step ?? 0, newest?.step ?? 0),
    ...readConfig(run.configYaml),
    method:
      newest === undefined
        ? null
        : await inspectMethod(run.configYaml, join(run.checkpointsDir, checkpointName(newest.step))),
    coordinator: lock === null ? 'not running' : COORDINATOR[lock.liveness],
    checkpointStep: newest?.step ?? null,
    weightsSha256: newest?.weightsSha256 ?? null,
    trainers: lastUpdate?.members.length ?? metrics.trainers,
    trainerIds: lastUpdate?.members.map(({ trainerId }) => trainerId) ?? [],
    members,
    memberSteps,
    lastLoss:
      lastUpdate !== null && lastUpdate.tokens > 0 && lastUpdate.lossSum !== null
        ? lastUpdate.lossSum / lastUpdate.tokens
        : metrics.loss,
    payloadNumbers: metrics.payloadNumbers,
    meanRank: metrics.meanRank,
    tokens: metrics.tokens,
    seconds: metrics.seconds,
    bytesUp: metrics.bytesUp,
    bytesDown: metrics.bytesDown,
    traffic: metrics.traffic,
    checkpoints,
    journal: describeJournal(scan, fault),
  };
}

const COORDINATOR: Readonly<Record<Liveness, Inspection['coordinator']>> = {
  alive: 'running',
  dead: 'not running',
  unknown: 'unknown',
};

interface ReadJournal extends Pick<Inspection, 'members' | 'memberSteps'> {
  readonly scan: JournalScan | null;
  readonly fault: string | null;
}

/** The coordinator may delete a segment while it is read; a second look sees the journal without it. */
async function readJournal({ journalDir }: RunDirectoryPaths, isFull: boolean): Promise<ReadJournal> {
  for (let attempt = 1; ; attempt++) {
    const membership = new MembershipFold();
    const onCommit = ({ update }: CommitFacts): void => void (update !== null && membership.add(update));
    try {
      const scan = await scanJournal(journalDir, { isFull, onCommit });
      return { scan, fault: null, members: membership.report(), memberSteps: membership.steps };
    } catch (error) {
      if (attempt < 3) continue;
      const fault = (error as Error).message;
      return { scan: null, fault, members: membership.report(), memberSteps: membership.steps };
    }
  }
}

function describeJournal(scan: JournalScan | null, fault: string | null): InspectedJournal {
  const segments = (scan?.segments ?? []).map(({ path, firstSequence, lastSequence, fileBytes }) => ({
    file: basename(path),
    firstSequence,
    lastSequence,
    bytes: fileBytes,
  }));
  return {
    segments,
    records: scan?.records.length ?? 0,
    bytes: segments.reduce((sum, { bytes }) => sum + bytes, 0),
    tornBytes: scan?.torn?.bytes ?? 0,
    fault,
  };
}

/** Ascending by step. A checkpoint deleted meanwhile is left out. */
async function readCheckpoints(
  { checkpointsDir }: RunDirectoryPaths,
  isFull: boolean,
): Promise<InspectedCheckpoint[]> {
  const found: InspectedCheckpoint[] = [];
  for (const step of await listCheckpointSteps(checkpointsDir)) {
    try {
      if (isFull) await (await openCheckpoint(checkpointsDir, step)).close();
      const { path: _, ...facts } = await describeCheckpoint(checkpointsDir, step);
      found.push({ ...facts, fault: null });
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      if (!(await listCheckpointSteps(checkpointsDir)).includes(step)) continue;
      found.push({
        step,
        sequence: null,
        bytes: null,
        feedbackBytes: {},
        weightsSha256: null,
        created: null,
        fault: error.message,
      });
    }
  }
  return found;
}

interface MetricsSummary {
  readonly loss: number | null;
  readonly trainers: number;
  readonly payloadNumbers: number | null;
  readonly meanRank: number | null;
  readonly tokens: number;
  readonly seconds: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  readonly traffic: TrafficReport;
}

async function sumMetrics(path: string): Promise<MetricsSummary> {
  const sums = { tokens: 0, seconds: 0, bytesUp: 0, bytesDown: 0 };
  let loss: number | null = null;
  let trainers = 0;
  let payloadNumbers: number | null = null;
  let meanRank: number | null = null;
  let traffic: TrafficReport = { trainers: {}, policies: {} };
  for await (const line of readMetrics(path)) {
    for (const field of ['tokens', 'seconds', 'bytesUp', 'bytesDown'] as const) {
      const value = line[field];
      if (typeof value === 'number' && Number.isFinite(value)) sums[field] += value;
    }
    traffic = addTraffic(traffic, line['traffic']);
    if (typeof line['loss'] === 'number') loss = line['loss'];
    if (typeof line['trainers'] === 'number') trainers = line['trainers'];
    if (typeof line['payloadNumbers'] === 'number') payloadNumbers = line['payloadNumbers'];
    if (typeof line['meanRank'] === 'number') meanRank = line['meanRank'];
  }
  return { loss, trainers, payloadNumbers, meanRank, traffic, ...sums };
}

/** The few facts of run.yaml that are shown; a file that cannot be read leaves them unknown. */
function readConfig(configYaml: string): Pick<Inspection, 'totalSteps' | 'seed' | 'codec'> {
  let config: { steps?: unknown; seed?: unknown; wire?: { codec?: unknown } | null } | null;
  try {
    config = parseYaml(configYaml) as typeof config;
  } catch {
    config = null;
  }
  const { steps, seed, wire } = typeof config === 'object' && config !== null ? config : {};
  return {
    totalSteps: typeof steps === 'number' ? steps : null,
    seed: typeof seed === 'number' ? seed : null,
    codec: typeof wire?.codec === 'string' ? wire.codec : null,
  };
}
