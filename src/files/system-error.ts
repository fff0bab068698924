/** Turns what the operating system refuses into an OperatingError that says what was being done and why it failed. */
import { OperatingError } from '../errors.ts';

const EXPLANATIONS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file is too large for this file system',
  EIO: 'the disk reports an input/output error',
  EISDIR: 'it is a directory',
  ELOOP: 'too many symbolic links',
  EMFILE: 'this process has too many files open',
  ENAMETOOLONG: 'the name is too long',
  ENFILE: 'the system has too many files open',
  ENOENT: 'no such file or directory',
  ENOSPC: 'no space left on the disk',
  ENOTDIR: 'part of the path is not a directory',
  EPERM: 'not permitted',
  EROFS: 'the file system is read-only',
};

/** The code of a system error such as `ENOENT`; undefined for any other error. */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/**
 * What to throw for `error`, met while doing what `doing` says ("write /runs/a/lock"). Errors that do
 * not come from the system are returned as they are.
 */
export function explainSystemError(error: unknown, doing: string): unknown {
  const code = systemErrorCode(error);
  if (code === undefined) return error;
  const why = EXPLANATIONS[code] ?? (error as Error).message;
  return new OperatingError(`cannot ${doing}: ${why} (${code})`, { cause: error });
}

/** Awaits `work`; a system error becomes an OperatingError that says "cannot " and `doing`. */
export async function explaining<T>(doing: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw explainSystemError(error, doing);
  }
}
