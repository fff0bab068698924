/**
 * What a checkpoint consists of: names, files and the two JSON documents. See docs/state.md,
 * "Checkpoints". No files are touched here.
 */
import { z } from 'zod';
import { SIMILARITY_QUEUE } from '../core/refresh-schedule.ts';
import type { SlotBasis } from '../core/state.ts';
import { compareNames } from '../../files/weights-hash.ts';
import { STATE_KINDS, dtypeOfKind, type StateDtype } from '../../galore/optimizer/rule-state.ts';

export const CHECKPOINT_VERSION = 2;
/** Versions that are read: the first had no folder `feedback`. */
const READ_VERSIONS = [1, CHECKPOINT_VERSION] as const;
export const MANIFEST_FILE = 'manifest.json';
export const RUN_FILE = 'run.json';
export const CONFIG_FILE = 'config.json';
export const TOKENIZER_FILE = 'tokenizer.json';
export const GENERATION_FILE = 'generation_config.json';
export const WEIGHTS_FILE = 'model.safetensors';
/** Holds a file for each trainer that kept something of its gradients. */
export const FEEDBACK_FOLDER = 'feedback';
/** Longest JSON document of a checkpoint's own. */
export const MAX_DOCUMENT_BYTES = 16 * 1024 * 1024;

/** A tensor of the run's state. Names begin with `weights/`, `basis/` or a kind of optimizer state. */
export interface StateTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Which file a state tensor is in and what it is called there. */
export interface TensorPlace {
  readonly file: TensorFile;
  readonly name: string;
}

/** The files that hold tensors, in the order they are written and read. */
export const TENSOR_FILES = [WEIGHTS_FILE, 'optimizer.safetensors', 'projections.safetensors'] as const;
export type TensorFile = (typeof TENSOR_FILES)[number];

/**
 * Weights go by their Hugging Face name, everything else by its full name.
 * @throws RangeError for a name that begins with nothing known.
 */
export function placeTensor(stateName: string): TensorPlace {
  const slash = stateName.indexOf('/');
  const prefix = stateName.slice(0, slash);
  const name = stateName.slice(slash + 1);
  if (slash === -1 || name === '') throw new RangeError(`state tensor ${stateName} has no prefix or no name`);
  switch (prefix) {
    case 'weights':
      return { file: WEIGHTS_FILE, name };
    case 'basis':
      return { file: 'projections.safetensors', name: stateName };
    default:
      if (STATE_KINDS.includes(prefix)) return { file: 'optimizer.safetensors', name: stateName };
      throw new RangeError(
        `state tensor ${stateName}: the prefix is not weights, basis, ${STATE_KINDS.join(', ')}`,
      );
  }
}

/** What a state tensor is made of, by its name; in the files F32 or U8. */
export function dtypeOf(stateName: string): StateDtype {
  return dtypeOfKind(stateName.slice(0, stateName.indexOf('/')));
}

/** The dtype of the safetensors format for ours. */
export const FILE_DTYPES = { f32: 'F32', u8: 'U8' } as const satisfies Record<StateDtype, string>;

/** The name in the run's state of a tensor in one of the files; null when it has no business there. */
export function stateNameOf(file: TensorFile, name: string): string | null {
  const stateName = file === WEIGHTS_FILE ? `weights/${name}` : name;
  try {
    return placeTensor(stateName).file === file ? stateName : null;
  } catch {
    return null;
  }
}

/** The file with what a trainer kept of its gradients, as the manifest names it. */
export function feedbackFile(trainerId: string): string {
  return `${FEEDBACK_FOLDER}/${trainerId}.safetensors`;
}

/** Bytes of these files by trainer id, ascending. */
export function feedbackBytes({ files }: Manifest): Readonly<Record<string, number>> {
  const suffix = feedbackFile('').slice(FEEDBACK_FOLDER.length + 1);
  return Object.fromEntries(
    Object.entries(files)
      .filter(([name]) => name.startsWith(`${FEEDBACK_FOLDER}/`))
      .map(([name, { bytes }]) => [name.slice(FEEDBACK_FOLDER.length + 1, -suffix.length), bytes] as const)
      .sort(([a], [b]) => compareNames(a, b)),
  );
}

/** Name of the folder of a checkpoint. */
export function checkpointName(step: number): string {
  return `step-${String(step).padStart(6, '0')}`;
}

/** Step of a checkpoint by the name of its folder; null for other names. */
export function parseCheckpointName(name: string): number | null {
  const match = /^step-(\d{6,15})$/.exec(name);
  if (match === null) return null;
  const step = Number(match[1]);
  return checkpointName(step) === name ? step : null;
}

const count = z.int().min(0);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'not 64 hexadecimal digits');

const amount = z.number().min(0);

const slotBasis = z.object({
  slot: count,
  rank: z.int().min(1).nullable(),
  refreshedStep: count,
  gap: z.int().min(1),
  similarities: z.array(amount).max(SIMILARITY_QUEUE),
  firstNorm: amount.nullable(),
  lastNorm: amount.nullable(),
});

const runDocument = z.object({
  formatVersion: z.literal(READ_VERSIONS),
  runId: z.string().min(1),
  name: z.string().min(1),
  step: count,
  sequence: count,
  digest: sha256,
  refreshedStep: count,
  bases: z.array(slotBasis).optional(),
  cursor: z.object({ next: count, returned: z.array(count) }),
  epochSequences: z.int().min(1).optional(),
  baseSha256: sha256.optional(),
  seed: count,
  schedulePosition: count,
  members: z.array(z.string()),
  counted: z.record(z.string(), count).optional(),
  created: z.string(),
});

const manifestDocument = z.object({
  formatVersion: z.literal(READ_VERSIONS),
  step: count,
  weightsSha256: sha256,
  files: z.record(
    z.string().regex(/^([A-Za-z0-9][A-Za-z0-9._-]*|feedback\/[A-Za-z0-9._-]{1,64}\.safetensors)$/),
    z.object({ bytes: count, sha256 }),
  ),
});

/** run.json: everything about the state that is not a tensor. */
export interface RunJson {
  readonly formatVersion: (typeof READ_VERSIONS)[number];
  readonly runId: string;
  readonly name: string;
  /** Committed steps. */
  readonly step: number;
  /** The last record included, and its digest in hexadecimal (64 zeros before the first). */
  readonly sequence: number;
  readonly digest: string;
  /** The step whose bases are included though its update may not be; 0: none. */
  readonly refreshedStep: number;
  /** What the coordinator knows of each slot's bases, ascending by slot; absent: of none. */
  readonly bases?: readonly SlotBasis[] | undefined;
  readonly cursor: { readonly next: number; readonly returned: readonly number[] };
  /** Sequences of an epoch: epoch e (from 0) has the positions from e times this on. */
  readonly epochSequences?: number | undefined;
  /** The hash of the model folder that the run began with, where trainers compare it with their own (files/base-weights.ts). */
  readonly baseSha256?: string | undefined;
  readonly seed: number;
  /** The next step's learning rate is schedule(schedulePosition). */
  readonly schedulePosition: number;
  /** The trainers that took part in the last step, ascending. */
  readonly members: readonly string[];
  /** The last step that counted each trainer; absent: not known. */
  readonly counted?: Readonly<Record<string, number>> | undefined;
  /** When, as ISO 8601. */
  readonly created: string;
}

/** run.json without what the store adds. */
export type RunFacts = Omit<RunJson, 'formatVersion'>;

/** manifest.json: written last, so a folder that has one is whole. */
export interface Manifest {
  readonly formatVersion: (typeof READ_VERSIONS)[number];
  readonly step: number;
  /** See weights-hash.ts. */
  readonly weightsSha256: string;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>;
}

/** A document or what is wrong with it, in words. */
export type Parsed<T> = { readonly value: T } | { readonly fault: string };

export function parseRunJson(text: string): Parsed<RunJson> {
  return parseDocument(text, runDocument);
}

export function parseManifest(text: string): Parsed<Manifest> {
  return parseDocument(text, manifestDocument);
}

function parseDocument<T>(text: string, schema: z.ZodType<T>): Parsed<T> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { fault: 'it is not JSON' };
  }
  const result = schema.safeParse(json);
  if (result.success) return { value: result.data };
  const [issue] = result.error.issues;
  return {
    fault: issue === undefined ? 'it is malformed' : `${issue.path.join('.') || 'it'}: ${issue.message}`,
  };
}

/** A JSON document as it is written: readable, and the same bytes for the same facts. */
export function formatDocument(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** State tensors in the order of the files and, within a file, of the names. */
export function sortTensors<T extends StateTensor>(tensors: readonly T[]): T[] {
  const key = (tensor: T): TensorPlace => placeTensor(tensor.name);
  return tensors.toSorted((a, b) => {
    const [left, right] = [key(a), key(b)];
    return (
      TENSOR_FILES.indexOf(left.file) - TENSOR_FILES.indexOf(right.file) ||
      compareNames(left.name, right.name)
    );
  });
}
