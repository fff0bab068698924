/**
 * Reads checkpoints: finds the newest one that is whole, proves it by its hashes, and hands out the
 * state in pieces. Read-only but for `pruneCheckpoints`. Writing is in checkpoint-writer.ts.
 */
import { open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CheckpointError, DataError } from '../../errors.ts';
import { hashFile } from '../../files/hash-file.ts';
import { readFully } from '../../files/positional.ts';
import { openSafetensors } from '../../files/safetensors.ts';
import type { SafetensorsFile } from '../../files/safetensors.ts';
import type { StateDtype } from '../../galore/optimizer/rule-state.ts';
import { LOCAL_PREFIX } from '../../galore/state-table.ts';
import { explaining, systemErrorCode } from '../../files/system-error.ts';
import {
  CONFIG_FILE,
  FILE_DTYPES,
  GENERATION_FILE,
  MANIFEST_FILE,
  MAX_DOCUMENT_BYTES,
  RUN_FILE,
  TENSOR_FILES,
  TOKENIZER_FILE,
  WEIGHTS_FILE,
  checkpointName,
  dtypeOf,
  feedbackBytes,
  feedbackFile,
  parseCheckpointName,
  parseManifest,
  parseRunJson,
  sortTensors,
  stateNameOf,
} from './checkpoint-format.ts';
import type { Manifest, Parsed, RunJson, StateTensor } from './checkpoint-format.ts';
import { hashWeightsIn, removeCheckpoint } from './checkpoint-writer.ts';
import type { CheckpointInfo } from './checkpoint-writer.ts';

export type { Manifest, RunFacts, RunJson, StateTensor } from './checkpoint-format.ts';
export { beginCheckpoint, removeCheckpoint, removeCheckpointLeftovers } from './checkpoint-writer.ts';
export type {
  AddFiles,
  CheckpointInfo,
  CheckpointTexts,
  CheckpointWriter,
  FeedbackWriter,
} from './checkpoint-writer.ts';

/** Texts that can be read from a checkpoint. */
export type CheckpointText = typeof CONFIG_FILE | typeof TOKENIZER_FILE | typeof GENERATION_FILE;

/** A state tensor in a checkpoint. */
export interface CheckpointTensor extends StateTensor {
  readonly dtype: StateDtype;
  readonly totalBytes: number;
}

/** Stamps of checkpoints that were read back and are whole, by step. */
export type VerifiedStamps = Map<number, string>;

/** A checkpoint whose files all have the hashes its manifest states. */
export interface OpenCheckpoint {
  /** The folder; it loads in Hugging Face transformers. */
  readonly path: string;
  readonly step: number;
  readonly run: RunJson;
  readonly manifest: Manifest;
  /** Says which files these are, and when they were written to last; other bytes come with another stamp. */
  readonly stamp: string;
  /** Weights, moments, bases; each group ascending by name. Then what `includeFeedback` has added. */
  readonly tensors: readonly CheckpointTensor[];
  /** Adds to `tensors` what a trainer kept of its gradients, `local/KIND/NAME`, if the checkpoint has any of it. */
  includeFeedback(trainerId: string): Promise<void>;
  /** Fills `target` with bytes of tensor number `tensorIndex` from `offset` on. */
  readInto(tensorIndex: number, offset: number, target: Uint8Array): Promise<void>;
  /** The same, in memory of their own. */
  read(tensorIndex: number, offset: number, length: number): Promise<Uint8Array>;
  /** A text of the folder; null when the checkpoint has none of that name. */
  readText(name: CheckpointText): Promise<string | null>;
  close(): Promise<void>;
}

/** Steps of the checkpoints in `checkpointsDir`, ascending, whole or not. Empty when there is no such folder. */
export async function listCheckpointSteps(checkpointsDir: string): Promise<number[]> {
  let names: string[];
  try {
    names = await readdir(checkpointsDir);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return [];
    return await explaining(`read ${checkpointsDir}`, Promise.reject(error as Error));
  }
  return names.flatMap((name) => parseCheckpointName(name) ?? []).sort((a, b) => a - b);
}

/**
 * Opens the newest checkpoint that is whole; null when there are none. `onNotice` is told of each
 * damaged one that was passed over. `verified`: see openCheckpoint.
 * @throws CheckpointError when there are checkpoints and every one is damaged.
 */
export async function openNewestCheckpoint(
  checkpointsDir: string,
  onNotice: (text: string) => void,
  verified: VerifiedStamps = new Map(),
): Promise<OpenCheckpoint | null> {
  const steps = await listCheckpointSteps(checkpointsDir);
  const faults: string[] = [];
  for (const step of steps.toReversed()) {
    try {
      return await openCheckpoint(checkpointsDir, step, verified);
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      faults.push(error.message);
      onNotice(`${error.message}; trying the checkpoint before it`);
    }
  }
  if (steps.length === 0) return null;
  throw new CheckpointError(
    checkpointsDir,
    `no checkpoint in ${checkpointsDir} can be used: ${faults.join('; ')}`,
  );
}

/**
 * Opens the checkpoint of `step` after checking every file against the manifest. One whose stamp is in `verified` is
 * not read for that once more; one that was read is added.
 * @throws CheckpointError that says what is wrong with it.
 */
export async function openCheckpoint(
  checkpointsDir: string,
  step: number,
  verified: VerifiedStamps = new Map(),
): Promise<OpenCheckpoint> {
  const path = join(checkpointsDir, checkpointName(step));
  const { manifest, run } = await readDocuments(path, step);
  const stamp = await stampFiles(path, Object.keys(manifest.files));
  const isKnown = verified.get(step) === stamp;
  if (!isKnown) await checkHashes(path, manifest);
  const files: SafetensorsFile[] = [];
  try {
    for (const name of TENSOR_FILES) {
      if (Object.hasOwn(manifest.files, name)) files.push(await openTensorFile(path, name));
    }
    const checkpoint = new VerifiedCheckpoint({ path, run, manifest, stamp }, files);
    if (!isKnown) await checkWeights(path, manifest, files[0] as SafetensorsFile);
    verified.set(step, stamp);
    return checkpoint;
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

/** Which files these are, how long, and when they were written to last. */
async function stampFiles(path: string, names: readonly string[]): Promise<string> {
  const stamps: string[] = [];
  for (const name of [MANIFEST_FILE, ...names]) {
    const of = await readingPart(path, name, stat(join(path, name), { bigint: true }));
    stamps.push(`${name} ${of.ino} ${of.size} ${of.mtimeNs} ${of.ctimeNs}`);
  }
  return stamps.join('\n');
}

/** @throws CheckpointError naming the file whose bytes are not what the manifest says */
async function checkHashes(path: string, manifest: Manifest): Promise<void> {
  for (const [name, stated] of Object.entries(manifest.files)) {
    const { sha256 } = await readingPart(path, name, hashFile(join(path, name)));
    if (sha256 !== stated.sha256) {
      throw damaged(path, `${name} has SHA-256 ${sha256}, the manifest says ${stated.sha256}`);
    }
  }
}

/** @throws CheckpointError if the weights are not those that the manifest names */
async function checkWeights(path: string, manifest: Manifest, file: SafetensorsFile): Promise<void> {
  const weightsSha256 = await hashWeightsIn(file);
  if (weightsSha256 === manifest.weightsSha256) return;
  const stated = `the manifest says ${manifest.weightsSha256}`;
  throw damaged(path, `its weights have the hash ${weightsSha256}, ${stated}`);
}

/**
 * What a checkpoint says of itself. Looks at names, sizes and documents, not at the tensors: a flipped
 * bit in them goes unseen.
 * @throws CheckpointError that says what is wrong with it.
 */
export async function describeCheckpoint(checkpointsDir: string, step: number): Promise<CheckpointInfo> {
  const path = join(checkpointsDir, checkpointName(step));
  const { manifest, run } = await readDocuments(path, step);
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  return {
    ...{ path, step, sequence: run.sequence, bytes, feedbackBytes: feedbackBytes(manifest) },
    ...{ weightsSha256: manifest.weightsSha256, created: run.created },
  };
}

/**
 * What run.json of a checkpoint says; looked at as by describeCheckpoint.
 * @throws CheckpointError that says what is wrong with it.
 */
export async function readRunFacts(checkpointsDir: string, step: number): Promise<RunJson> {
  return (await readDocuments(join(checkpointsDir, checkpointName(step)), step)).run;
}

/**
 * Reads the checkpoint of `step` back, all of it unless it is in `verified`, and compares it with its manifest.
 * @throws CheckpointError that says what is wrong with it.
 */
export async function verifyCheckpoint(
  checkpointsDir: string,
  step: number,
  verified: VerifiedStamps,
): Promise<void> {
  await (await openCheckpoint(checkpointsDir, step, verified)).close();
}

/**
 * Deletes all but the newest `keep` checkpoints; those that are damaged do not count and go with the old
 * ones. What is not in `verified` is read back and added, for
 * nothing is deleted that only one which nobody has looked at could replace. Returns what is kept, ascending:
 * the journal is needed from the first one's sequence on.
 */
export async function pruneCheckpoints(
  checkpointsDir: string,
  keep: number,
  verified: VerifiedStamps = new Map(),
): Promise<CheckpointInfo[]> {
  if (!(keep >= 1)) throw new RangeError(`at least one checkpoint is kept, not ${keep}`);
  const steps = await listCheckpointSteps(checkpointsDir);
  const kept: CheckpointInfo[] = [];
  for (const step of steps.toReversed()) {
    if (kept.length === keep) {
      verified.delete(step);
      await removeCheckpoint(checkpointsDir, step);
      continue;
    }
    try {
      await verifyCheckpoint(checkpointsDir, step, verified);
      kept.unshift(await describeCheckpoint(checkpointsDir, step));
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
  return kept;
}

/** Manifest and run.json, checked against each other, the folder's name and the files' sizes. */
async function readDocuments(path: string, step: number): Promise<{ manifest: Manifest; run: RunJson }> {
  const manifest = unwrap(path, MANIFEST_FILE, parseManifest(await readDocument(path, MANIFEST_FILE)));
  if (manifest.step !== step) throw damaged(path, `${MANIFEST_FILE} is that of step ${manifest.step}`);
  for (const name of [WEIGHTS_FILE, CONFIG_FILE, RUN_FILE]) {
    if (!Object.hasOwn(manifest.files, name)) throw damaged(path, `${MANIFEST_FILE} does not list ${name}`);
  }
  for (const [name, stated] of Object.entries(manifest.files)) {
    const { size } = await readingPart(path, name, stat(join(path, name)));
    if (size !== stated.bytes)
      throw damaged(path, `${name} has ${size} bytes, the manifest says ${stated.bytes}`);
  }
  const run = unwrap(path, RUN_FILE, parseRunJson(await readDocument(path, RUN_FILE)));
  if (run.step !== step) throw damaged(path, `${RUN_FILE} is that of step ${run.step}`);
  return { manifest, run };
}

async function readDocument(path: string, name: string, maxBytes = MAX_DOCUMENT_BYTES): Promise<string> {
  const handle = await readingPart(path, name, open(join(path, name), 'r'));
  try {
    const { size } = await readingPart(path, name, handle.stat());
    if (size > maxBytes) throw damaged(path, `${name} has ${size} bytes, at most ${maxBytes} are read`);
    const bytes = new Uint8Array(size);
    const done = await readingPart(path, name, readFully(handle, bytes, 0));
    return new TextDecoder().decode(bytes.subarray(0, done));
  } finally {
    await handle.close();
  }
}

async function openTensorFile(path: string, name: string): Promise<SafetensorsFile> {
  try {
    return await openSafetensors(join(path, name));
  } catch (error) {
    if (error instanceof DataError) throw damaged(path, error.message, error);
    throw error;
  }
}

/** Awaits work on one file of a checkpoint; a file that is missing or cannot be read off the disk is damage. */
async function readingPart<T>(path: string, name: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') throw damaged(path, `${name} is missing`, error);
    if (code === 'EISDIR') throw damaged(path, `${name} is a folder`, error);
    if (code === 'EIO') throw damaged(path, `${name} cannot be read off the disk`, error);
    return await explaining(`read ${join(path, name)}`, Promise.reject(error as Error));
  }
}

function unwrap<T>(path: string, name: string, parsed: Parsed<T>): T {
  if ('fault' in parsed) throw damaged(path, `${name}: ${parsed.fault}`);
  return parsed.value;
}

function damaged(path: string, reason: string, cause?: unknown): CheckpointError {
  return new CheckpointError(path, `checkpoint ${path} is damaged: ${reason}`, { cause });
}

class VerifiedCheckpoint implements OpenCheckpoint {
  readonly path: string;
  readonly step: number;
  readonly run: RunJson;
  readonly manifest: Manifest;
  readonly stamp: string;
  readonly tensors: CheckpointTensor[];
  readonly #files: SafetensorsFile[];
  readonly #places = new Map<string, { readonly file: SafetensorsFile; readonly name: string }>();

  constructor(
    { path, run, manifest, stamp }: Pick<OpenCheckpoint, 'path' | 'run' | 'manifest' | 'stamp'>,
    files: SafetensorsFile[],
  ) {
    this.path = path;
    this.step = run.step;
    this.run = run;
    this.manifest = manifest;
    this.stamp = stamp;
    this.#files = files;
    this.tensors = sortTensors(files.flatMap((file) => this.#addFile(file)));
  }

  async readInto(tensorIndex: number, offset: number, target: Uint8Array): Promise<void> {
    const { file, name } = this.#placeOf(tensorIndex);
    await file.readBytesInto(name, offset, target);
  }

  async read(tensorIndex: number, offset: number, length: number): Promise<Uint8Array> {
    const { file, name } = this.#placeOf(tensorIndex);
    return await file.readBytes(name, offset, length);
  }

  async includeFeedback(trainerId: string): Promise<void> {
    const name = feedbackFile(trainerId);
    if (!Object.hasOwn(this.manifest.files, name)) return;
    const file = await openTensorFile(this.path, name);
    this.#files.push(file);
    for (const [tensor, { dtype, shape, start, end }] of file.tensors) {
      const stateDtype = dtypeOf(tensor);
      this.#check(name, tensor, dtype, stateDtype);
      const listed = `${LOCAL_PREFIX}${tensor}`;
      this.#places.set(listed, { file, name: tensor });
      this.tensors.push({ name: listed, shape, dtype: stateDtype, totalBytes: end - start });
    }
  }

  async readText(name: CheckpointText): Promise<string | null> {
    if (!Object.hasOwn(this.manifest.files, name)) return null;
    return await readDocument(this.path, name, Infinity);
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }

  #placeOf(tensorIndex: number): { readonly file: SafetensorsFile; readonly name: string } {
    const place = this.#places.get(this.tensors[tensorIndex]?.name ?? '');
    if (place !== undefined) return place;
    const count = this.tensors.length;
    throw new RangeError(`the checkpoint has ${count} tensors, number ${tensorIndex} is not one of them`);
  }

  #addFile(file: SafetensorsFile): CheckpointTensor[] {
    const fileName = TENSOR_FILES.find((name) => file.path === join(this.path, name));
    return [...file.tensors].map(([name, { dtype, shape, start, end }]) => {
      const stateName = fileName === undefined ? null : stateNameOf(fileName, name);
      if (stateName === null)
        throw damaged(this.path, `${fileName} holds ${name}, which does not belong there`);
      const stateDtype = dtypeOf(stateName);
      this.#check(fileName ?? '', name, dtype, stateDtype);
      this.#places.set(stateName, { file, name });
      return { name: stateName, shape, dtype: stateDtype, totalBytes: end - start };
    });
  }

  #check(fileName: string, name: string, dtype: string, stateDtype: StateDtype): void {
    const wanted = FILE_DTYPES[stateDtype];
    if (dtype !== wanted) throw damaged(this.path, `${name} in ${fileName} is ${dtype}, not ${wanted}`);
  }
}
