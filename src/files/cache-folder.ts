/**
 * Folders of a cache on disk that are either complete or not there: each is written under another name,
 * synced, and renamed to its key, so a folder under its own name is complete; of two processes that write at once the
 * first wins. What processes that were killed have left is removed by the next.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { OperatingError } from '../errors.ts';

const PARTIAL_PREFIX = '.partial~';
/** Half-written folders of this process: another process may have had its id before, and left its own. */
const ownFolders = new Set<string>();

/**
 * Makes the folder `key` of a cache: `fill` writes its files, synced, into the folder it is given.
 * @throws OperatingError where the disk refuses; whatever `fill` throws, and then nothing is left behind.
 */
export async function writeCacheFolder(
  cacheDir: string,
  key: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  await explainWriteFailure(cacheDir, () => mkdir(cacheDir, { recursive: true }));
  await removeLeftovers(cacheDir);
  const partial = `${PARTIAL_PREFIX}${hostname()}~${process.pid}~${randomUUID()}`;
  const folder = join(cacheDir, partial);
  ownFolders.add(partial);
  await explainWriteFailure(folder, () => mkdir(folder));
  try {
    await fill(folder);
    await explainWriteFailure(cacheDir, () => publish(folder, join(cacheDir, key)));
  } finally {
    await rm(folder, { recursive: true, force: true });
    ownFolders.delete(partial);
  }
}

/** Removes a damaged folder of a cache. */
export async function removeCacheFolder(cacheDir: string, key: string): Promise<void> {
  await explainWriteFailure(cacheDir, () => rm(join(cacheDir, key), { recursive: true, force: true }));
}

/** Gives a complete folder its name, unless another process was first: then its folder holds the same. */
async function publish(folder: string, destination: string): Promise<void> {
  try {
    await rename(folder, destination);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
  }
}

/** Removes what processes of this machine that no longer live have left half-written. */
async function removeLeftovers(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    if (!name.startsWith(PARTIAL_PREFIX)) continue;
    const [host, pid] = name.slice(PARTIAL_PREFIX.length).split('~');
    const isInUse = ownFolders.has(name) || (Number(pid) !== process.pid && isAlive(Number(pid)));
    if (host !== hostname() || isInUse) continue;
    await rm(join(cacheDir, name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0); // signal 0 only asks
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Writes a new file and syncs it. @throws OperatingError where the disk refuses. */
export async function writeNewFile(path: string, text: string): Promise<void> {
  await explainWriteFailure(path, async () => {
    const file = await open(path, 'wx');
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  });
}

/** What `write` gives. @throws OperatingError with the reason in words and what to do, where the disk refuses. */
export async function explainWriteFailure<T>(path: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    const reason = code === 'ENOSPC' ? 'the disk is full' : code === 'EACCES' ? 'permission denied' : code;
    throw new OperatingError(
      `the token cache ${path} cannot be written: ${reason}; data.cache_dir or GALORE_CACHE_DIR names another place for it`,
      { cause: error },
    );
  }
}
