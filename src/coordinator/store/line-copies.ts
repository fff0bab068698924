/**
 * Copies of metrics.jsonl and evaluations.jsonl in a checkpoint: they go where the checkpoint goes, and what a directory
 * lacks of these lines comes back from them. Packed, since there is a line for every step. See docs/state.md,
 * "Lines in a checkpoint".
 */
import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pipeline } from 'node:stream';
import { pipeline as piped } from 'node:stream/promises';
import { constants, createGunzip, createGzip } from 'node:zlib';
import { explaining, systemErrorCode } from '../../files/system-error.ts';
import { parseLine, type MetricsLine, type MetricsLog } from './metrics-log.ts';

/** Lines that are unpacked before they are written, and synced, together. */
const PIECE_BYTES = 1024 * 1024;

/** Puts a copy of what is in the logs into `folder`, synced; the names of the files. A log that is gone has none. */
export async function copyLines(logs: readonly MetricsLog[], folder: string): Promise<readonly string[]> {
  const names: string[] = [];
  for (const { path } of logs) {
    if (!(await isThere(path))) continue;
    const name = nameOf(path);
    const packed = createGzip({ level: constants.Z_BEST_SPEED });
    const target = createWriteStream(join(folder, name), { flush: true });
    await explaining(`copy ${path} to ${folder}`, piped(createReadStream(path), packed, target));
    names.push(name);
  }
  return names;
}

/** Appends the lines behind the log's last one, up to `step`, that the copy in `folder` has. Without a copy: none. */
export async function restoreLines(log: MetricsLog, folder: string, step: number): Promise<void> {
  const path = join(folder, nameOf(log.path));
  if (!(await isThere(path))) return;
  for await (const lines of readCopy(path)) {
    await log.appendAll(lines.filter((line) => line.step > log.lastStep && line.step <= step));
  }
}

async function* readCopy(path: string): AsyncGenerator<readonly MetricsLine[], void, void> {
  // The callback is for what fails: it ends the loop below, which throws it.
  const pieces = pipeline(createReadStream(path), createGunzip({ chunkSize: PIECE_BYTES }), () => {});
  let rest = Buffer.alloc(0);
  for await (const piece of pieces as AsyncIterable<Buffer>) {
    const bytes = Buffer.concat([rest, piece]);
    const end = bytes.lastIndexOf('\n') + 1;
    rest = bytes.subarray(end);
    const texts = bytes.subarray(0, end).toString('utf8').split('\n');
    yield texts.flatMap((text) => parseLine(text) ?? []);
  }
}

function nameOf(path: string): string {
  return `${basename(path)}.gz`;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    return await explaining(`read ${path}`, Promise.reject(error as Error));
  }
}
