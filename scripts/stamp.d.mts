/** SHA-256 over names and contents of files; a folder counts with every file under it that `accepts`. */
export function hashFiles(
  root: string,
  paths: readonly string[],
  accepts?: (path: string) => boolean,
): string;

/** The stamp's text, or undefined where there is none. */
export function readStamp(path: string): string | undefined;

/** Writes the stamp atomically. */
export function writeStamp(path: string, text: string): void;

/** Puts the folder `fresh` where `path` is; what was there is deleted. Both lie on one file system. */
export function replaceFolder(fresh: string, path: string): void;
