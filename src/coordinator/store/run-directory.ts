/**
 * The directory of a run: who it belongs to, where its parts lie, and the lock that keeps a second
 * coordinator out. See docs/state.md, "Run directory".
 */
import { mkdir, readFile, readdir, rm, rmdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { CheckpointError } from '../../errors.ts';
import { writeFileAtomic } from '../../files/atomic.ts';
import { explaining, systemErrorCode } from '../../files/system-error.ts';
import { TOKENS_FILE } from '../../identity/token-file.ts';
import { listCheckpointSteps, removeCheckpointLeftovers } from './checkpoint.ts';
import { LOCK_FILE, lockDirectory } from './directory-lock.ts';
import type { DirectoryLock } from './directory-lock.ts';
import { scanJournal } from './journal-scan.ts';

const RUN_DIRECTORY_VERSION = 1;
/** Marks a run directory; written last when one is made. */
const MARKER_FILE = 'run-id.json';
const CONFIG_FILE = 'run.yaml';
const METRICS_FILE = 'metrics.jsonl';
const EVALUATIONS_FILE = 'evaluations.jsonl';
const JOURNAL_DIR = 'journal';
const CHECKPOINTS_DIR = 'checkpoints';
/** Curves for TensorBoard, if they are asked for. */
export const TENSORBOARD_DIR = 'tensorboard';

const marker = z.object({
  formatVersion: z.literal(RUN_DIRECTORY_VERSION),
  runId: z.string().min(1),
  name: z.string().min(1),
});

/** What distinguishes a run. */
export interface RunIdentity {
  readonly runId: string;
  readonly name: string;
}

/** A run directory as it can be read by anyone at any time. */
export interface RunDirectoryPaths extends RunIdentity {
  readonly path: string;
  readonly journalDir: string;
  readonly checkpointsDir: string;
  readonly metricsPath: string;
  readonly evaluationsPath: string;
  /** run.yaml: the resolved configuration. */
  readonly configYaml: string;
}

/** A run directory that is locked for this process. */
export interface RunDirectory extends RunDirectoryPaths {
  /** Gives the lock back. */
  close(): Promise<void>;
}

/** The directory of a run that has not begun. */
export interface NewRunDirectory extends RunDirectory {
  /** After close: removes what was made, so that a start that failed can be tried again. */
  discard(): Promise<void>;
}

/**
 * Makes the directory of a new run; when that fails, nothing of it is left. `configYaml` must hold no secrets: it is stored as it is.
 * @throws CheckpointError when `dir` holds a run or anything else already, OperatingError when it is
 * in use or cannot be written.
 */
export async function createRunDirectory(
  dir: string,
  { runId, name, configYaml }: RunIdentity & { readonly configYaml: string },
  onNotice: (text: string) => void = () => {},
): Promise<NewRunDirectory> {
  const firstMade = await explaining(`create ${dir}`, mkdir(dir, { recursive: true }));
  const removeFolders = (): Promise<void> => removeMadeFolders(dir, firstMade);
  try {
    await refuseOccupied(dir);
    const lock = await lockDirectory(dir, onNotice);
    try {
      await refuseOccupied(dir);
      await fill(dir, { runId, name }, configYaml);
    } catch (error) {
      await lock.release();
      throw error;
    }
    const directory = lockedDirectory(describe(dir, { runId, name }, configYaml), lock);
    const discard = async (): Promise<void> => {
      await discardRunDirectory(dir);
      await removeFolders();
    };
    return { ...directory, discard };
  } catch (error) {
    await removeFolders();
    throw error;
  }
}

/** Writes what makes an empty directory a run directory, the marker last. */
async function fill(dir: string, { runId, name }: RunIdentity, configYaml: string): Promise<void> {
  try {
    await writeFileAtomic(join(dir, CONFIG_FILE), configYaml);
    for (const part of [JOURNAL_DIR, CHECKPOINTS_DIR]) {
      await explaining(`create ${join(dir, part)}`, mkdir(join(dir, part), { recursive: true }));
    }
    const identity = { formatVersion: RUN_DIRECTORY_VERSION, runId, name };
    await writeFileAtomic(join(dir, MARKER_FILE), `${JSON.stringify(identity, null, 2)}\n`);
  } catch (error) {
    await discardRunDirectory(dir);
    throw error;
  }
}

/**
 * Removes all that makes `dir` a run directory. What cannot be removed stays: why the start failed is the better
 * explanation.
 */
export async function discardRunDirectory(dir: string): Promise<void> {
  const parts = [
    JOURNAL_DIR,
    CHECKPOINTS_DIR,
    METRICS_FILE,
    EVALUATIONS_FILE,
    CONFIG_FILE,
    TENSORBOARD_DIR,
    MARKER_FILE,
  ];
  for (const part of parts) await rm(join(dir, part), { recursive: true, force: true }).catch(() => {});
}

/** Removes `dir` and those above it, up to the first that was made for it, as long as they are empty. */
async function removeMadeFolders(dir: string, firstMade: string | undefined): Promise<void> {
  if (firstMade === undefined) return;
  const last = resolve(firstMade);
  for (let folder = resolve(dir); folder.length >= last.length; folder = dirname(folder)) {
    try {
      await rmdir(folder);
    } catch {
      return;
    }
  }
}

/**
 * Opens the directory of a run to continue it, and removes what a crash left half done.
 * @throws CheckpointError when it is not a run directory, OperatingError when it is in use or cannot
 * be written.
 */
export async function openRunDirectory(
  dir: string,
  onNotice: (text: string) => void = () => {},
): Promise<RunDirectory> {
  await readRunDirectory(dir);
  const lock = await lockDirectory(dir, onNotice);
  try {
    const paths = await readRunDirectory(dir);
    await explaining(`write ${paths.checkpointsDir}`, removeCheckpointLeftovers(paths.checkpointsDir));
    return lockedDirectory(paths, lock);
  } catch (error) {
    await lock.release();
    throw error;
  }
}

/**
 * Reads what a run directory says of itself, without locking it.
 * @throws CheckpointError when it is not a run directory, OperatingError when it cannot be read.
 */
export async function readRunDirectory(dir: string): Promise<RunDirectoryPaths> {
  const identity = await readMarker(dir);
  if (identity === null) throw await notARunDirectory(dir);
  const configYaml = await readText(dir, CONFIG_FILE);
  if (configYaml === null) throw new CheckpointError(dir, `${dir} is damaged: ${CONFIG_FILE} is missing`);
  return describe(dir, identity, configYaml);
}

function describe(dir: string, { runId, name }: RunIdentity, configYaml: string): RunDirectoryPaths {
  return {
    path: dir,
    runId,
    name,
    configYaml,
    journalDir: join(dir, JOURNAL_DIR),
    checkpointsDir: join(dir, CHECKPOINTS_DIR),
    metricsPath: join(dir, METRICS_FILE),
    evaluationsPath: join(dir, EVALUATIONS_FILE),
  };
}

function lockedDirectory(paths: RunDirectoryPaths, lock: DirectoryLock): RunDirectory {
  return { ...paths, close: () => lock.release() };
}

/** Null when there is none. */
async function readMarker(dir: string): Promise<RunIdentity | null> {
  const text = await readText(dir, MARKER_FILE);
  if (text === null) return null;
  const damaged = (reason: string): CheckpointError =>
    new CheckpointError(dir, `${join(dir, MARKER_FILE)} is damaged: ${reason}`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw damaged('it is not JSON');
  }
  const parsed = marker.safeParse(json);
  if (!parsed.success)
    throw damaged(parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; '));
  return parsed.data;
}

async function readText(dir: string, name: string): Promise<string | null> {
  try {
    return await readFile(join(dir, name), 'utf8');
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    return await explaining(`read ${join(dir, name)}`, Promise.reject(error as Error));
  }
}

async function notARunDirectory(dir: string): Promise<CheckpointError> {
  try {
    const names = await readdir(dir);
    const hint = names.includes('manifest.json')
      ? '; it looks like a checkpoint: give the directory above checkpoints'
      : '';
    return new CheckpointError(dir, `${dir} is not a run directory: it has no ${MARKER_FILE}${hint}`);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT') return new CheckpointError(dir, `${dir} does not exist`, { cause: error });
    if (code === 'ENOTDIR') return new CheckpointError(dir, `${dir} is not a directory`, { cause: error });
    return await explaining(`read ${dir}`, Promise.reject(error as Error));
  }
}

/** A new run needs an empty directory, or one in which making a run directory was interrupted. */
async function refuseOccupied(dir: string): Promise<void> {
  const identity = await readMarker(dir);
  if (identity !== null && !(await isCutOff(dir))) {
    const step = await committedStep(dir);
    const at = step === null ? '' : ` at step ${step}`;
    throw new CheckpointError(
      dir,
      `${dir} already holds run ${identity.name}${at}; continue it with: galore resume ${dir}, or choose another --dir`,
    );
  }
  const names = await explaining(`read ${dir}`, readdir(dir));
  const foreign = names.find((name) => !isOurs(name));
  if (foreign !== undefined) {
    throw new CheckpointError(
      dir,
      `${dir} is not empty (${foreign} is in it) and not a run directory; choose another --dir`,
    );
  }
  for (const part of [JOURNAL_DIR, CHECKPOINTS_DIR].filter((part) => names.includes(part))) {
    const path = join(dir, part);
    if (await holdsNothing(path)) continue;
    throw new CheckpointError(
      dir,
      `${dir} is damaged: it has no ${MARKER_FILE}, but ${path} is not empty; choose another --dir`,
    );
  }
}

/** A start that was cut off before the first checkpoint was there: nothing was trained. */
async function isCutOff(dir: string): Promise<boolean> {
  const parts = [JOURNAL_DIR, CHECKPOINTS_DIR].map((part) => holdsNothing(join(dir, part)));
  return (await Promise.all(parts)).every(Boolean);
}

/** Also true of what was half written when the process was killed. */
async function holdsNothing(path: string): Promise<boolean> {
  const names = await readdir(path).catch((error: unknown) =>
    systemErrorCode(error) === 'ENOENT'
      ? []
      : explaining(`read ${path}`, Promise.reject<string[]>(error as Error)),
  );
  return names.every((name) => name.startsWith('.tmp-'));
}

/** What an interrupted `createRunDirectory` may leave, and tokens, which may be made before the run is. */
function isOurs(name: string): boolean {
  const own = [LOCK_FILE, CONFIG_FILE, MARKER_FILE, JOURNAL_DIR, CHECKPOINTS_DIR, TOKENS_FILE];
  return (
    own.includes(name) ||
    own.some((part) => name === `${part}.tmp`) ||
    name.startsWith(`${LOCK_FILE}.`) ||
    name === `${TOKENS_FILE}.lock`
  );
}

/** 0 of a run that was never trained; null when it cannot be told. */
export async function committedStep(dir: string): Promise<number | null> {
  try {
    const { head } = await scanJournal(join(dir, JOURNAL_DIR), { isFull: false });
    return head?.step ?? (await listCheckpointSteps(join(dir, CHECKPOINTS_DIR))).at(-1) ?? 0;
  } catch {
    return null;
  }
}
