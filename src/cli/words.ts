/** Paths and words as a person types them. Pure. */
import { relative } from 'node:path';

/** A path as a person in `workingDir` would write it. */
export function shownPath(workingDir: string, path: string): string {
  const short = relative(workingDir, path);
  if (short === '') return '.';
  return short.startsWith('..') ? path : short;
}

/** A word of a command line, quoted where the shell would take it apart. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
