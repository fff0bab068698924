/** Copies of checkpoints between a run directory and a store elsewhere. */
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { syncDirectory } from '../../files/atomic.ts';
import { explaining } from '../../files/system-error.ts';
import { checkpointName, MANIFEST_FILE } from './checkpoint-format.ts';
import { openCheckpoint, type VerifiedStamps } from './checkpoint.ts';
import { publish, TEMPORARY_PREFIX } from './checkpoint-writer.ts';
import type { StoredCheckpoint } from './state-store.ts';

/** A checkpoint in a run directory, proved, with the names of its files: the manifest comes last. */
export interface CheckpointFiles extends StoredCheckpoint {
  readonly path: string;
  readonly files: readonly string[];
}

/** @throws CheckpointError when it is damaged or not there */
export async function readCheckpointFiles(
  checkpointsDir: string,
  step: number,
  verified?: VerifiedStamps,
): Promise<CheckpointFiles> {
  const checkpoint = await openCheckpoint(checkpointsDir, step, verified);
  await checkpoint.close();
  const { path, manifest, run } = checkpoint;
  const files = [...Object.keys(manifest.files), MANIFEST_FILE];
  const { sequence, digest } = run;
  return { path, files, step, sequence, digest, weightsSha256: manifest.weightsSha256 };
}

/** Makes the checkpoint exist once `fill` has written all its files, synced, into the folder it is given. */
export async function receiveCheckpoint(
  checkpointsDir: string,
  step: number,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const name = checkpointName(step);
  if (await isThere(join(checkpointsDir, name))) return;
  await explaining(`write ${checkpointsDir}`, mkdir(checkpointsDir, { recursive: true }));
  const prefix = join(checkpointsDir, `${TEMPORARY_PREFIX}${name}-`);
  const temporary = await explaining(`write ${checkpointsDir}`, mkdtemp(prefix));
  try {
    await fill(temporary);
    await explaining(`write ${temporary}`, syncDirectory(temporary));
    await explaining(`write ${checkpointsDir}`, publish(checkpointsDir, temporary, name));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw error;
  }
}

/** Where a file of a checkpoint goes; makes the folder for it. */
export async function placeOf(folder: string, file: string): Promise<string> {
  const path = join(folder, file);
  await explaining(`write ${path}`, mkdir(dirname(path), { recursive: true }));
  return path;
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
