/** Puts the engine where tfjs looks for it: `lib/napi-v8` of its package becomes a link into the cache. */
import { randomUUID } from 'node:crypto';
import { access, mkdir, readlink, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EngineError } from '../../errors.ts';
import { ADDON } from './compile.ts';

/** The folder tfjs loads its addon from, on every Node it runs on. */
export function placeOf(packageDir: string): string {
  return join(packageDir, 'lib/napi-v8');
}

/** True if tfjs would load the addon in `folder`. */
export async function isPlaced(packageDir: string, folder: string): Promise<boolean> {
  return (await readlink(placeOf(packageDir)).catch(() => undefined)) === folder;
}

/** True if tfjs would find an addon, whichever. */
export function isOccupied(packageDir: string): Promise<boolean> {
  return access(join(placeOf(packageDir), ADDON)).then(
    () => true,
    () => false,
  );
}

/**
 * Makes tfjs load the addon in `folder`. Whatever was there is replaced; a process that has it loaded is not
 * disturbed. @throws EngineError if the package's folder may not be written.
 */
export async function place(packageDir: string, folder: string): Promise<void> {
  const path = placeOf(packageDir);
  const aside = `${path}-${process.pid}-${randomUUID()}`;
  try {
    await mkdir(dirname(path), { recursive: true });
    await symlink(folder, aside);
    await rename(aside, path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EISDIR' && error.code !== 'EEXIST' && error.code !== 'ENOTEMPTY') throw error;
      // A folder that some other installer made: a rename replaces a link but not a folder.
      await rename(path, `${aside}-old`);
      await rename(aside, path);
      await rm(`${aside}-old`, { recursive: true, force: true });
    });
  } catch (cause) {
    await rm(aside, { force: true }).catch(() => undefined);
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'EACCES' && code !== 'EPERM' && code !== 'EROFS') throw cause;
    throw new EngineError(
      `the engine cannot be linked into ${dirname(path)}, which this user may not write; ` +
        'run `galore engine install` once as the user who installed galore-swarm',
      { cause },
    );
  }
}
