/**
 * A manifest says which files a folder of the engine's cache holds, with size and SHA-256, so that damage is
 * found: by size and time of change on every use (milliseconds), by content when asked to (seconds).
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { writeStamp } from '#scripts/stamp';

const MANIFEST = 'manifest.json';
const READ_BYTES = 1 << 20;

interface FileRecord {
  /** Relative to the folder. */
  readonly path: string;
  readonly bytes: number;
  readonly changedMs: number;
  readonly sha256: string;
}

/** How far to look: size and time of change, or the content too. */
export type Thoroughness = 'quick' | 'full';

export async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: READ_BYTES }), hash);
  return hash.digest('hex');
}

/** Writes the manifest of `paths` into the folder; the last thing done before the folder gets its final name. */
export async function writeManifest(folder: string, paths: readonly string[]): Promise<void> {
  const records: FileRecord[] = [];
  for (const path of paths) {
    const { size, mtimeMs } = await stat(join(folder, path));
    const sha256 = await sha256OfFile(join(folder, path));
    records.push({ path, bytes: size, changedMs: Math.trunc(mtimeMs), sha256 });
  }
  writeManifestFile(folder, records);
}

/** Undefined if the folder holds what its manifest says, else what is wrong, in words. */
export async function findDamage(folder: string, thoroughness: Thoroughness): Promise<string | undefined> {
  const records = await readManifest(folder);
  if (!records) return 'it has no readable manifest';
  const current: FileRecord[] = [];
  for (const record of records) {
    const path = join(folder, record.path);
    const status = await stat(path).catch(() => undefined);
    if (!status) return `${record.path} is missing`;
    if (status.size !== record.bytes) {
      return `${record.path} has ${status.size} bytes instead of ${record.bytes}`;
    }
    const changedMs = Math.trunc(status.mtimeMs);
    const isDoubtful = thoroughness === 'full' || changedMs !== record.changedMs;
    if (isDoubtful && (await sha256OfFile(path)) !== record.sha256) {
      return `the content of ${record.path} has changed`;
    }
    current.push({ ...record, changedMs });
  }
  // Copied or restored with other times but intact: noted, so that the next look is quick again.
  if (current.some(({ changedMs }, i) => changedMs !== records[i]?.changedMs)) {
    writeManifestFile(folder, current);
  }
  return undefined;
}

/** Paths of all files under `folder`, relative to it, in a stable order; empty if there is no such folder. */
export async function filesUnder(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

function writeManifestFile(folder: string, files: readonly FileRecord[]): void {
  writeStamp(join(folder, MANIFEST), `${JSON.stringify({ files }, undefined, 2)}\n`);
}

async function readManifest(folder: string): Promise<readonly FileRecord[] | undefined> {
  try {
    const manifest: unknown = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8'));
    const { files } = manifest as { files: readonly FileRecord[] };
    return files.length > 0 ? files : undefined;
  } catch {
    return undefined;
  }
}
