/**
 * Files that are either wholly there or not at all, power failure included: written under another
 * name, synced, renamed, and the directory synced.
 */
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { writeFully } from './positional.ts';
import { explaining } from './system-error.ts';

/** Makes renames, creations and removals in `directory` last. */
export async function syncDirectory(directory: string): Promise<void> {
  // Windows cannot open a directory; there the rename itself is all there is.
  if (process.platform === 'win32') return;
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Creates or replaces the file `path` and syncs it. Its directory is not synced. `mode`: who may read it. */
export async function writeSynced(path: string, content: string | Uint8Array, mode?: number): Promise<void> {
  const bytes = typeof content === 'string' ? Buffer.from(content, 'utf8') : content;
  const handle = await open(path, 'w', mode);
  try {
    // What an earlier crash has left may be open to more people.
    if (mode !== undefined) await handle.chmod(mode);
    await writeFully(handle, bytes, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Creates or replaces the file `path`. A crash leaves the old content or the new, and perhaps a file
 * `PATH.tmp`.
 * @throws OperatingError when the system refuses.
 */
export async function writeFileAtomic(
  path: string,
  content: string | Uint8Array,
  mode?: number,
): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    await explaining(`write ${path}`, writeSynced(temporary, content, mode));
    await explaining(`write ${path}`, rename(temporary, path));
    await explaining(`write ${path}`, syncDirectory(dirname(path)));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}
