/**
 * A disk without room: the one fault of a disk that is waited out. Any other (EIO, EROFS, …) ends the process: what
 * such a disk has acknowledged may be lost, and the next start reads everything back before it goes on. SHELL.
 */
import { statfs } from 'node:fs/promises';
import { systemErrorCode } from '../../files/system-error.ts';
import { StoreFull, StoreUnavailable } from './state-store.ts';

/** The disk, or the user's share of it, is full. `error` may be an OperatingError that explains it. */
export function isDiskFull(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}

/** What is waited out: the disk is full, or the store of the run is, or it cannot be reached. */
export function isPassing(error: unknown): boolean {
  return isDiskFull(error) || error instanceof StoreFull || error instanceof StoreUnavailable;
}

/** As describeFullDisk; a store says itself what is wrong with it. */
export async function describePassing(error: unknown, path: string, wantedBytes: number): Promise<string> {
  return error instanceof Error && !isDiskFull(error)
    ? error.message
    : await describeFullDisk(error, path, wantedBytes);
}

/** "the disk is full: 12.0 KiB free for runs/a/journal, which needs 48.0 KiB". `wantedBytes` null: not known. */
export async function describeFullDisk(
  error: unknown,
  path: string,
  wantedBytes: number | null = null,
): Promise<string> {
  const needs = wantedBytes === null ? '' : `, which needs ${inWords(wantedBytes)}`;
  if (codeOf(error) === 'EDQUOT') return `the disk quota is used up for ${path}${needs}`;
  const free = await statfs(path).then(
    ({ bavail, bsize }) => `${inWords(bavail * bsize)} free`,
    () => 'nothing free',
  );
  return `the disk is full: ${free} for ${path}${needs}`;
}

function codeOf(error: unknown): string | undefined {
  return systemErrorCode(error) ?? (error instanceof Error ? systemErrorCode(error.cause) : undefined);
}

function inWords(bytes: number): string {
  if (bytes < 1024) return `${bytes} bytes`;
  const [size, unit] =
    bytes < 2 ** 20
      ? [bytes / 2 ** 10, 'KiB']
      : bytes < 2 ** 30
        ? [bytes / 2 ** 20, 'MiB']
        : [bytes / 2 ** 30, 'GiB'];
  return `${size.toFixed(size < 100 ? 1 : 0)} ${unit}`;
}
