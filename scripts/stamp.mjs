/**
 * Stamps: a small file that says what a finished piece of work was made from. It is written last and
 * atomically, so that a missing or different stamp means "do it again" and nothing else does.
 */
import { createHash, randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** SHA-256 over names and contents of files; a folder counts with every file under it that `accepts`. */
export function hashFiles(root, paths, accepts = () => true) {
  const hash = createHash('sha256');
  for (const path of paths.flatMap((path) => filesUnder(root, path, accepts)).sort()) {
    const content = readFileSync(join(root, path));
    hash.update(`${path}\0${content.length}\0`).update(content);
  }
  return hash.digest('hex');
}

function filesUnder(root, path, accepts) {
  let entries;
  try {
    entries = readdirSync(join(root, path), { withFileTypes: true });
  } catch (error) {
    if (error.code === 'ENOTDIR') return [path];
    if (error.code === 'ENOENT') return [];
    throw error;
  }
  return entries.flatMap((entry) => {
    const child = `${path}/${entry.name}`;
    if (entry.isDirectory()) return filesUnder(root, child, accepts);
    return accepts(child) ? [child] : [];
  });
}

/** The stamp's text, or undefined where there is none. */
export function readStamp(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
    throw error;
  }
}

export function writeStamp(path, text) {
  mkdirSync(dirname(path), { recursive: true });
  const draft = `${path}.${process.pid}.${randomUUID()}`;
  writeFileSync(draft, text);
  renameSync(draft, path);
}

/** Puts the folder `fresh` where `path` is; what was there is deleted. Both lie on one file system. */
export function replaceFolder(fresh, path) {
  const old = `${fresh}-old`;
  mkdirSync(dirname(path), { recursive: true });
  try {
    renameSync(path, old);
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  renameSync(fresh, path);
  rmSync(old, { recursive: true, force: true });
}
