/**
 * Writes a folder that is there or not: under a temporary name beside its place, renamed when it is whole. SHELL.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ConfigError } from '../errors.ts';
import { syncDirectory } from './atomic.ts';
import { explaining, systemErrorCode } from './system-error.ts';

/** Where a folder is to be written. */
export interface FolderPlace {
  readonly out: string;
  /** An earlier folder of this kind at `out` is replaced. */
  readonly mayReplace: boolean;
  /** What the folder holds, such as `model`. */
  readonly what: string;
  /** Whether a file there belongs to a folder of this kind. */
  readonly isOwnFile: (name: string) => boolean;
}

/** A file of a folder that was written. */
export interface WrittenFile {
  readonly name: string;
  readonly bytes: number;
}

/**
 * Lets `write` fill a folder and puts it in its place; its files in the order of their names.
 * @throws ConfigError where something else is there, OperatingError, and what `write` throws: then nothing is left behind
 */
export async function writeFolder(
  { out: given, mayReplace, what, isOwnFile }: FolderPlace,
  write: (folder: string) => Promise<void>,
): Promise<readonly WrittenFile[]> {
  const out = await checkPlace(given, mayReplace, what, isOwnFile);
  const parent = dirname(out);
  const made = await explaining(`write ${out}`, mkdir(parent, { recursive: true }));
  const temporary = join(parent, `.${basename(out)}.tmp-${randomUUID().slice(0, 8)}`);
  try {
    await explaining(`write ${out}`, mkdir(temporary));
    await write(temporary);
    const files: WrittenFile[] = [];
    for (const name of (await explaining(`read ${temporary}`, readdir(temporary))).sort()) {
      const path = join(temporary, name);
      files.push({ name, bytes: (await explaining(`read ${path}`, stat(path))).size });
    }
    await explaining(`write ${out}`, publish(temporary, out));
    return files;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    if (made !== undefined) await removeEmpty(parent, made);
    throw error;
  }
}

/** Where to write, links resolved. @throws ConfigError where something else is there */
async function checkPlace(
  out: string,
  mayReplace: boolean,
  what: string,
  isOwnFile: (name: string) => boolean,
): Promise<string> {
  if (!existsSync(out)) return resolve(out);
  const place = await explaining(`write ${out}`, realpath(out));
  const stats = await explaining(`read ${out}`, stat(place));
  if (!stats.isDirectory()) throw new ConfigError(`${out} is a file; name a folder`);
  const names = await explaining(`read ${out}`, readdir(place));
  if (names.length === 0) return place;
  const foreign = names.find((name) => !isOwnFile(name));
  if (foreign !== undefined) {
    const reason = mayReplace ? `, which is no file of an exported ${what}: --force does not delete it` : '';
    throw new ConfigError(`${out} is not empty: it holds ${foreign}${reason}; name another folder`);
  }
  if (!mayReplace) {
    throw new ConfigError(`${out} holds a ${what} already; --force replaces it, or name another folder`);
  }
  return place;
}

/** Gives the whole folder its name; one that has the name is moved aside first and then deleted. */
async function publish(temporary: string, out: string): Promise<void> {
  const parent = dirname(out);
  await syncDirectory(temporary);
  const aside = `${temporary}-old`;
  const hasOld = await rename(out, aside).then(
    () => true,
    (error: unknown) => {
      if (systemErrorCode(error) === 'ENOENT') return false;
      throw error;
    },
  );
  try {
    await rename(temporary, out);
  } catch (error) {
    if (hasOld) await rename(aside, out).catch(() => {});
    throw error;
  }
  try {
    await syncDirectory(parent);
  } finally {
    if (hasOld) await rm(aside, { recursive: true, force: true });
  }
}

/** Removes the folders from `deepest` up to `highest` that this export made, as far as they are empty. */
async function removeEmpty(deepest: string, highest: string): Promise<void> {
  for (let folder = deepest; folder.length >= highest.length; folder = dirname(folder)) {
    const isGone = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (!isGone) return;
  }
}
