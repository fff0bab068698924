/**
 * Writes a checkpoint: under a temporary name, every file synced, the manifest last, then renamed. A
 * crash at any point leaves the old checkpoints, perhaps the new one, and perhaps a temporary folder
 * that the next `openRunDirectory` removes.
 */
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory, writeSynced } from '../../files/atomic.ts';
import { hashFile } from '../../files/hash-file.ts';
import { createSafetensors, openSafetensors } from '../../files/safetensors.ts';
import type { SafetensorsFile, SafetensorsWriter } from '../../files/safetensors.ts';
import { CheckpointError } from '../../errors.ts';
import { explaining, systemErrorCode } from '../../files/system-error.ts';
import { WeightsHasher, compareNames } from '../../files/weights-hash.ts';
import {
  CHECKPOINT_VERSION,
  CONFIG_FILE,
  FEEDBACK_FOLDER,
  FILE_DTYPES,
  GENERATION_FILE,
  MANIFEST_FILE,
  RUN_FILE,
  TENSOR_FILES,
  TOKENIZER_FILE,
  WEIGHTS_FILE,
  checkpointName,
  dtypeOf,
  feedbackBytes,
  feedbackFile,
  formatDocument,
  parseCheckpointName,
  placeTensor,
  sortTensors,
} from './checkpoint-format.ts';
import type {
  Manifest,
  RunFacts,
  RunJson,
  StateTensor,
  TensorFile,
  TensorPlace,
} from './checkpoint-format.ts';

export const TEMPORARY_PREFIX = '.tmp-';
const REPLACED_PREFIX = '.old-';
/** Bytes of a tensor hashed at once. */
const PIECE_BYTES = 1024 * 1024;

/** The texts that go into a checkpoint as they are. */
export interface CheckpointTexts {
  readonly configJson: string;
  readonly tokenizerJson?: string | undefined;
  readonly generationConfig?: string | undefined;
}

/** A finished checkpoint. */
export interface CheckpointInfo {
  readonly path: string;
  readonly step: number;
  readonly sequence: number;
  /** Of all its files. */
  readonly bytes: number;
  /** Of what each trainer kept of its gradients, by trainer id; empty: none kept anything. */
  readonly feedbackBytes: Readonly<Record<string, number>>;
  readonly weightsSha256: string;
  /** ISO 8601. */
  readonly created: string;
}

/** A checkpoint being written. Neither `finish` nor `abandon` was called: it does not exist. */
export interface CheckpointWriter {
  readonly step: number;
  /** Puts `bytes` at `offset` of tensor number `tensorIndex` of the list it was begun with; any order. */
  write(tensorIndex: number, offset: number, bytes: Uint8Array): Promise<void>;
  /** Begins the file of what a trainer kept of its gradients, `KIND/NAME`; once for each trainer. */
  beginFeedback(trainerId: string, tensors: readonly StateTensor[]): Promise<FeedbackWriter>;
  /**
   * Makes the checkpoint exist, in place of an older one of the same step, with the feedback of these trainers
   * and of no others: what else was begun is deleted.
   * @param weightsSha256 what the weights must have for a hash; null: anything
   * @throws DataError when bytes of a tensor are missing, CheckpointError when the weights have another hash,
   * OperatingError when the system refuses; in all cases call `abandon`.
   */
  finish(
    run: RunFacts,
    trainerIds?: readonly string[],
    weightsSha256?: string | null,
  ): Promise<CheckpointInfo>;
  /** Deletes what was written. Does nothing after `finish`. */
  abandon(): Promise<void>;
}

/** One trainer's feedback in a checkpoint being written. */
export interface FeedbackWriter {
  /** Puts `bytes` at `offset` of tensor number `tensorIndex` of the list it was begun with; any order. */
  write(tensorIndex: number, offset: number, bytes: Uint8Array): Promise<void>;
}

/** Puts files of its own, synced, into the folder of a checkpoint that is being finished; their names. */
export type AddFiles = (folder: string) => Promise<readonly string[]>;

/**
 * Begins the checkpoint of `step` in `checkpointsDir`. What each tensor is made of goes by its name.
 * @throws OperatingError when the system refuses.
 */
export async function beginCheckpoint(
  checkpointsDir: string,
  step: number,
  tensors: readonly StateTensor[],
  texts: CheckpointTexts,
  addFiles: AddFiles = () => Promise.resolve([]),
): Promise<CheckpointWriter> {
  const sorted = sortTensors(tensors);
  const prefix = join(checkpointsDir, `${TEMPORARY_PREFIX}${checkpointName(step)}-`);
  const create = async (): Promise<string> => {
    await mkdir(checkpointsDir, { recursive: true });
    return await mkdtemp(prefix);
  };
  const temporary = await explaining(`write ${checkpointsDir}`, create());
  const files = new Map<TensorFile, SafetensorsWriter>();
  try {
    for (const file of TENSOR_FILES) {
      const inFile = sorted.filter(({ name }) => placeTensor(name).file === file);
      if (inFile.length === 0) continue;
      const entries = inFile.map(({ name, shape }) => ({
        name: placeTensor(name).name,
        shape,
        dtype: FILE_DTYPES[dtypeOf(name)],
      }));
      files.set(file, await createSafetensors(join(temporary, file), entries, { format: 'pt' }));
    }
  } catch (error) {
    await discard(temporary, [...files.values()]);
    throw error;
  }
  const places = tensors.map(({ name }) => placeTensor(name));
  return new FolderWriter(checkpointsDir, temporary, step, places, files, texts, addFiles);
}

class FolderWriter implements CheckpointWriter {
  readonly step: number;
  readonly #parent: string;
  readonly #temporary: string;
  readonly #places: readonly TensorPlace[];
  readonly #files: ReadonlyMap<TensorFile, SafetensorsWriter>;
  readonly #feedback = new Map<string, SafetensorsWriter>();
  readonly #texts: CheckpointTexts;
  readonly #addFiles: AddFiles;
  #isDone = false;

  constructor(
    parent: string,
    temporary: string,
    step: number,
    places: readonly TensorPlace[],
    files: ReadonlyMap<TensorFile, SafetensorsWriter>,
    texts: CheckpointTexts,
    addFiles: AddFiles,
  ) {
    this.step = step;
    this.#parent = parent;
    this.#temporary = temporary;
    this.#places = places;
    this.#files = files;
    this.#texts = texts;
    this.#addFiles = addFiles;
  }

  async write(tensorIndex: number, offset: number, bytes: Uint8Array): Promise<void> {
    const place = this.#places[tensorIndex];
    const file = place === undefined ? undefined : this.#files.get(place.file);
    if (place === undefined || file === undefined) {
      throw new RangeError(
        `the checkpoint has ${this.#places.length} tensors, number ${tensorIndex} is not one of them`,
      );
    }
    await file.write(place.name, offset, bytes);
  }

  async beginFeedback(trainerId: string, tensors: readonly StateTensor[]): Promise<FeedbackWriter> {
    const path = join(this.#temporary, feedbackFile(trainerId));
    await explaining(`write ${path}`, mkdir(dirname(path), { recursive: true }));
    const entries = tensors
      .map(({ name, shape }) => ({ name, shape, dtype: FILE_DTYPES[dtypeOf(name)] }))
      .sort((a, b) => compareNames(a.name, b.name));
    const file = await createSafetensors(path, entries, { format: 'pt' });
    this.#feedback.set(trainerId, file);
    return { write: async (index, offset, bytes) => await file.write(tensors[index]!.name, offset, bytes) };
  }

  async finish(
    run: RunFacts,
    trainerIds: readonly string[] = [],
    weightsSha256: string | null = null,
  ): Promise<CheckpointInfo> {
    if (run.step !== this.step)
      throw new RangeError(`a checkpoint of step ${this.step} cannot hold step ${run.step}`);
    for (const file of this.#files.values()) await file.finish();
    await this.#finishFeedback(trainerIds);
    const path = join(this.#parent, checkpointName(this.step));
    const manifest = await explaining(`write ${path}`, this.#complete(run));
    if (weightsSha256 !== null && manifest.weightsSha256 !== weightsSha256) {
      const text = `the weights that came for step ${this.step} are not those that were told of`;
      throw new CheckpointError(
        path,
        `${text}: they have the hash ${manifest.weightsSha256.slice(0, 8)}, not ${weightsSha256.slice(0, 8)}`,
      );
    }
    await explaining(`write ${path}`, publish(this.#parent, this.#temporary, checkpointName(this.step)));
    this.#isDone = true;
    const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
    return {
      ...{ path, step: this.step, sequence: run.sequence, bytes, feedbackBytes: feedbackBytes(manifest) },
      ...{ weightsSha256: manifest.weightsSha256, created: run.created },
    };
  }

  async abandon(): Promise<void> {
    if (this.#isDone) return;
    this.#isDone = true;
    await discard(this.#temporary, [...this.#files.values(), ...this.#feedback.values()]);
  }

  async #finishFeedback(trainerIds: readonly string[]): Promise<void> {
    for (const [trainerId, file] of this.#feedback) {
      if (trainerIds.includes(trainerId)) {
        await file.finish();
      } else {
        await file.abandon();
        this.#feedback.delete(trainerId);
      }
    }
    const folder = join(this.#temporary, FEEDBACK_FOLDER);
    if (this.#feedback.size > 0) await explaining(`write ${folder}`, syncDirectory(folder));
    else await rm(folder, { recursive: true, force: true });
  }

  /** The documents, and last the manifest. */
  async #complete(run: RunFacts): Promise<Manifest> {
    const runJson: RunJson = { formatVersion: CHECKPOINT_VERSION, ...run };
    const texts: [string, string | undefined][] = [
      [CONFIG_FILE, this.#texts.configJson],
      [TOKENIZER_FILE, this.#texts.tokenizerJson],
      [GENERATION_FILE, this.#texts.generationConfig],
      [RUN_FILE, formatDocument(runJson)],
    ];
    const names: string[] = [...this.#files.keys(), ...[...this.#feedback.keys()].map(feedbackFile)];
    for (const [name, text] of texts) {
      if (text === undefined) continue;
      await writeSynced(join(this.#temporary, name), text);
      names.push(name);
    }
    names.push(...(await this.#addFiles(this.#temporary)));
    const files: Record<string, { bytes: number; sha256: string }> = {};
    for (const name of names.sort(compareNames)) files[name] = await hashFile(join(this.#temporary, name));
    const weightsSha256 = await hashWeightsFile(join(this.#temporary, WEIGHTS_FILE));
    const manifest: Manifest = { formatVersion: CHECKPOINT_VERSION, step: this.step, weightsSha256, files };
    await writeSynced(join(this.#temporary, MANIFEST_FILE), formatDocument(manifest));
    await syncDirectory(this.#temporary);
    return manifest;
  }
}

/** Leftovers that cannot be deleted now are deleted when the run directory is opened next. */
async function discard(temporary: string, files: readonly SafetensorsWriter[]): Promise<void> {
  for (const file of files) await file.abandon();
  await rm(temporary, { recursive: true, force: true }).catch(() => {});
}

/** The weights' hash of a safetensors file, in hexadecimal. */
async function hashWeightsFile(path: string): Promise<string> {
  const file = await openSafetensors(path);
  try {
    return await hashWeightsIn(file);
  } finally {
    await file.close();
  }
}

/** The weights' hash (weights-hash.ts) of all tensors of an open file, in hexadecimal. */
export async function hashWeightsIn(file: SafetensorsFile): Promise<string> {
  const hasher = new WeightsHasher();
  const bytes = new Uint8Array(PIECE_BYTES);
  for (const name of [...file.tensors.keys()].sort(compareNames)) {
    const { start, end } = file.tensors.get(name) as { start: number; end: number };
    hasher.begin(name);
    for (let offset = 0; offset < end - start; offset += bytes.length) {
      const piece = bytes.subarray(0, Math.min(bytes.length, end - start - offset));
      await file.readBytesInto(name, offset, piece);
      hasher.update(piece);
    }
  }
  return Buffer.from(hasher.digest()).toString('hex');
}

/** Gives a whole folder its name. One that has the name already is moved aside first and then deleted. */
export async function publish(parent: string, temporary: string, name: string): Promise<void> {
  const final = join(parent, name);
  try {
    await rename(temporary, final);
    await syncDirectory(parent);
    return;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST' && code !== 'EPERM') throw error;
  }
  const aside = join(parent, `${REPLACED_PREFIX}${name}`);
  await rm(aside, { recursive: true, force: true });
  await rename(final, aside);
  await rename(temporary, final);
  await syncDirectory(parent);
  await rm(aside, { recursive: true, force: true });
}

/**
 * Removes what a crash left in `checkpointsDir`: folders half written, half deleted or half replaced.
 * Only for the process that holds the run directory's lock.
 */
export async function removeCheckpointLeftovers(checkpointsDir: string): Promise<void> {
  const names = await readdir(checkpointsDir).catch((error: unknown): string[] => {
    if (systemErrorCode(error) === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) {
    const path = join(checkpointsDir, name);
    const replaced = name.startsWith(REPLACED_PREFIX) ? name.slice(REPLACED_PREFIX.length) : null;
    if (replaced !== null && parseCheckpointName(replaced) !== null && !names.includes(replaced)) {
      // The crash came between the two renames: the new folder never got its name.
      await rename(path, join(checkpointsDir, replaced));
    } else if (replaced !== null || name.startsWith(TEMPORARY_PREFIX)) {
      await rm(path, { recursive: true, force: true });
    }
  }
  if (names.length > 0) await syncDirectory(checkpointsDir);
}

/** Deletes a checkpoint so that a crash leaves no half of it under its name. */
export async function removeCheckpoint(checkpointsDir: string, step: number): Promise<void> {
  const name = checkpointName(step);
  const remove = async (): Promise<void> => {
    const doomed = await mkdtemp(join(checkpointsDir, `${TEMPORARY_PREFIX}${name}-`));
    await rename(join(checkpointsDir, name), join(doomed, name));
    await rm(doomed, { recursive: true, force: true });
    await syncDirectory(checkpointsDir);
  };
  await explaining(`delete ${join(checkpointsDir, name)}`, remove());
}
