/** Reads a document whole, up to a limit that is checked on the way: a pipe or a device cannot exhaust memory. */
import { constants, readFileSync, statSync, type Stats } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { DataError } from '../errors.ts';
import { readFully } from './positional.ts';
import { explaining, systemErrorCode } from './system-error.ts';

/**
 * The bytes of the file `path`.
 * @throws DataError where it does not exist, is no plain file, or has more than `maxBytes`;
 * OperatingError when the system refuses.
 */
export async function readSmallFile(path: string, maxBytes: number): Promise<Uint8Array> {
  const handle = await openFile(path);
  try {
    const stats = await explaining(`read ${path}`, handle.stat());
    checkSmall(path, stats, maxBytes);
    const bytes = new Uint8Array(stats.size);
    const done = await explaining(`read ${path}`, readFully(handle, bytes, 0));
    return bytes.subarray(0, done);
  } finally {
    await handle.close();
  }
}

/**
 * The text of the file `path`, for callers that cannot wait. What the system refuses is thrown as it is.
 * @throws DataError where it is no plain file or has more than `maxBytes`
 */
export function readSmallTextSync(path: string, maxBytes: number): string {
  checkSmall(path, statSync(path), maxBytes);
  return readFileSync(path, 'utf8');
}

function checkSmall(path: string, stats: Stats, maxBytes: number): void {
  if (!stats.isFile()) throw new DataError(path, `${path} is not a file`);
  if (stats.size > maxBytes) {
    throw new DataError(path, `${path} has ${stats.size} bytes; at most ${maxBytes} are read`);
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    // Without NONBLOCK the opening of a pipe waits for a writer.
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new DataError(path, `${path} does not exist`, { cause: error });
    }
    return await explaining(`read ${path}`, Promise.reject(error as Error));
  }
}
