/**
 * A trainer's own state in a file, wholly there or not at all: safetensors, whose metadata say of what run, trainer and
 * step it is, and have a hash of the tensors, for a crash of the machine can leave anything. For a caller that cannot
 * wait: the thread that computes. Only the owner may read it: it was made from a site's data.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  fchmodSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { DataError } from '../errors.ts';
import { buildHeader, parseHeader, parseHeaderLength, PREFIX_BYTES } from './safetensors-header.ts';
import { explainSystemError, systemErrorCode } from './system-error.ts';

/** The file `PATH` of this step. */
export interface StoredState {
  /** The state is that after this step. */
  readonly step: number;
  /** SHA-256 of the bases that it is in, hexadecimal. */
  readonly bases: string;
  readonly tensors: readonly StoredTensor[];
}

export interface StoredTensor {
  readonly name: string;
  readonly dtype: 'F32' | 'U8';
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

const OWNER_ONLY = 0o600;
const FORMAT = 'galore-own-state';

/**
 * Reads it; null where there is no file.
 * @throws DataError for one that is damaged or something else, OperatingError when the system refuses
 */
export function readState(path: string): StoredState | null {
  let file: Buffer;
  try {
    file = readFileSync(path);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return null;
    throw explainSystemError(error, `read ${path}`);
  }
  const start = PREFIX_BYTES + parseHeaderLength(path, file.subarray(0, PREFIX_BYTES), file.length);
  const header = parseHeader(path, file.subarray(PREFIX_BYTES, start), file.length - start);
  const { format, step, bases, sha256 } = header.metadata;
  const isOurs = format === FORMAT && bases !== undefined && /^[1-9][0-9]{0,9}$/.test(step ?? '');
  if (!isOurs) throw new DataError(path, `${path} is no state of a trainer`);
  if (sha256 !== hashOf([file.subarray(start)])) {
    throw new DataError(path, `${path} is damaged: its tensors do not have the hash that it names`);
  }
  const tensors = [...header.tensors].map(([name, { dtype, shape, start: from, end }]): StoredTensor => {
    if (dtype !== 'F32' && dtype !== 'U8') throw new DataError(path, `${path}: ${name} is ${dtype}`);
    // A copy begins at a multiple of 4.
    return { name, dtype, shape, bytes: Uint8Array.from(file.subarray(start + from, start + end)) };
  });
  return { step: Number(step), bases, tensors };
}

/** Creates or replaces it. @throws OperatingError when the system refuses; the file is then as it was */
export function writeState(path: string, { step, bases, tensors }: StoredState): void {
  const sha256 = hashOf(tensors.map(({ bytes }) => bytes));
  const { bytes: header } = buildHeader(tensors, { format: FORMAT, step: String(step), bases, sha256 });
  const temporary = `${path}.tmp`;
  explained(`write ${path}`, () => {
    try {
      const file = openSync(temporary, 'w', OWNER_ONLY);
      try {
        fchmodSync(file, OWNER_ONLY);
        for (const bytes of [header, ...tensors.map((tensor) => tensor.bytes)]) writeWhole(file, bytes);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      moveSynced(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  });
}

/** Puts the file `from` in the place of `to`. @throws OperatingError when the system refuses */
export function moveState(from: string, to: string): void {
  explained(`write ${to}`, () => moveSynced(from, to));
}

/** Removes it, if it is there. @throws OperatingError when the system refuses */
export function removeState(path: string): void {
  explained(`remove ${path}`, () => rmSync(path, { force: true }));
}

function moveSynced(from: string, to: string): void {
  renameSync(from, to);
  if (process.platform === 'win32') return; // it cannot open a directory
  const directory = openSync(dirname(to), 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function writeWhole(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done);
}

function hashOf(pieces: readonly Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const piece of pieces) hash.update(piece);
  return hash.digest('hex');
}

function explained(doing: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    throw explainSystemError(error, doing);
  }
}
