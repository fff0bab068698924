/**
 * Which files the data are: paths, folders and folders of installed packages become a list of text and
 * JSONL files, each folder's in the order of their names (by code unit, the same on every machine).
 */
import type { Stats } from 'node:fs';
import { createRequire } from 'node:module';
import { readdir, stat } from 'node:fs/promises';
import { extname, join, resolve } from 'node:path';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, DataError } from '../errors.ts';
import { readFailure } from './text.ts';

/** A file of data. */
export interface Source {
  readonly path: string;
  readonly format: 'text' | 'jsonl';
  readonly bytes: number;
}

/** Found files, and what was passed over, in words. */
export interface SourceList {
  readonly sources: readonly Source[];
  readonly notices: readonly string[];
}

/** In a folder only these are data; a file that is named itself may have any name. */
const TEXT_EXTENSIONS = ['.txt', '.text', '.md'];
const JSONL_EXTENSIONS = ['.jsonl', '.ndjson'];
const MAX_FILES = 1_000_000;
const PACKAGE_PREFIX = 'npm:';
const WANTED = 'give a text or JSONL file, a folder of them, or npm:PACKAGE/FOLDER';

/**
 * The files that `paths` name, in order. A folder gives its text and JSONL files (only one kind if
 * `format` says so), those of its subfolders too; hidden ones are passed over.
 * @throws DataError where a path is missing, a named file is empty, or a folder holds nothing usable.
 */
export async function listSources(
  paths: string | readonly string[],
  format: RunConfig['data']['format'],
  field: string,
): Promise<SourceList> {
  const sources: Source[] = [];
  const notices: string[] = [];
  for (const given of typeof paths === 'string' ? [paths] : paths) {
    const path = given.startsWith(PACKAGE_PREFIX) ? await resolvePackagePath(given, field) : resolve(given);
    const status = await statOrExplain(path, field);
    if (status.isDirectory()) {
      const found = await listFolder(path, format, field);
      sources.push(...found.sources);
      notices.push(...found.notices);
    } else if (!status.isFile()) {
      throw new DataError(path, `${field}: ${path} is neither a file nor a folder; ${WANTED}`);
    } else if (status.size === 0) {
      throw new DataError(path, `${field}: ${path} is empty`);
    } else {
      const itsFormat = format === 'auto' ? (formatOf(path, format) ?? 'text') : format;
      sources.push({ path, format: itsFormat, bytes: status.size });
    }
    if (sources.length > MAX_FILES) throw new DataError(path, `${field} names more than ${MAX_FILES} files`);
  }
  return { sources, notices };
}

async function listFolder(
  folder: string,
  format: RunConfig['data']['format'],
  field: string,
): Promise<SourceList> {
  const sources: Source[] = [];
  const notices: string[] = [];
  const names = (await filesBelow(folder, '', field)).toSorted(compareCodeUnits);
  const others = new Set<string>();
  for (const name of names) {
    const path = join(folder, name);
    const itsFormat = formatOf(name, format);
    if (itsFormat === null) {
      others.add(extname(name) || name);
      continue;
    }
    const { size } = await statOrExplain(path, field);
    if (size === 0) notices.push(`${path} is empty and was passed over`);
    else sources.push({ path, format: itsFormat, bytes: size });
  }
  if (sources.length > 0) return { sources, notices };
  const extensions = [
    ...(format === 'jsonl' ? [] : TEXT_EXTENSIONS),
    ...(format === 'text' ? [] : JSONL_EXTENSIONS),
  ];
  const found =
    notices.length > 0
      ? 'only empty ones'
      : others.size > 0
        ? `only ${[...others].slice(0, 5).join(', ')}`
        : 'no files';
  throw new DataError(
    folder,
    `${field}: the folder ${folder} holds no usable files: it has ${found}; wanted ${extensions.join(', ')}`,
  );
}

/** Paths of the files below a folder, relative to it. Links to folders are not followed: they can go in circles. */
async function filesBelow(root: string, below: string, field: string): Promise<string[]> {
  const folder = join(root, below);
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw readFailure(folder, error, `${field}: ${WANTED}`);
  });
  const files: string[] = [];
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    const name = join(below, entry.name);
    if (entry.isDirectory()) files.push(...(await filesBelow(root, name, field)));
    else if (entry.isFile()) files.push(name);
    else if (entry.isSymbolicLink() && (await statOrExplain(join(root, name), field)).isFile())
      files.push(name);
  }
  return files;
}

/** The format of a file in a folder, null where it is no data. */
function formatOf(name: string, format: RunConfig['data']['format']): Source['format'] | null {
  const extension = extname(name).toLowerCase();
  const guessed = JSONL_EXTENSIONS.includes(extension)
    ? 'jsonl'
    : TEXT_EXTENSIONS.includes(extension)
      ? 'text'
      : null;
  return format === 'auto' || format === guessed ? guessed : null;
}

function compareCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

async function statOrExplain(path: string, field: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (error) {
    throw readFailure(path, error, `${field}: ${WANTED}`);
  }
}

/**
 * `npm:PACKAGE/FOLDER` as a path. The package is looked for as Node does, from this file upward (also
 * where this project is itself a dependency), then from the working directory. The folders are searched
 * instead of resolving a module, because a package may export none.
 */
async function resolvePackagePath(given: string, field: string): Promise<string> {
  const parts = given.slice(PACKAGE_PREFIX.length).split('/');
  const nameLength = parts[0]?.startsWith('@') === true ? 2 : 1;
  const name = parts.slice(0, nameLength).join('/');
  if (parts.length < nameLength || parts.some((part) => part === '' || part === '..' || part === '.')) {
    throw new ConfigError(`${field}: "${given}" is not of the form npm:PACKAGE/FOLDER`, [
      { field, value: given, allowed: 'npm:PACKAGE, npm:PACKAGE/FOLDER or npm:PACKAGE/FILE' },
    ]);
  }
  const places = [import.meta.url, join(process.cwd(), 'package.json')].flatMap(
    (from) => createRequire(from).resolve.paths(`${name}/package.json`) ?? [],
  );
  for (const place of places) {
    const folder = join(place, name);
    const isThere = await stat(folder).then(
      (status) => status.isDirectory(),
      () => false,
    );
    if (isThere) return join(folder, ...parts.slice(nameLength));
  }
  throw new DataError(given, `${field}: the package ${name} is not installed; run: npm install ${name}`);
}
