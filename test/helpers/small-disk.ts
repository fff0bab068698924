/** A file system of a few hundred kilobytes, for tests of what happens when it is full. */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmdirSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** Where it is mounted, until the test ends; null, with the reason printed, where none can be mounted. */
export function smallDisk(t: ExecutionContext, kilobytes: number): string | null {
  const path = mkdtempSync(join(tmpdir(), 'galore-test-disk-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', path], { stdio: 'pipe' });
  } catch (error) {
    t.log(`skipped: no small file system can be mounted here: ${String(error)}`);
    t.pass();
    return null;
  }
  t.teardown(() => {
    execFileSync('umount', ['-l', path]); // also if a test that failed has left a file open
    rmdirSync(path);
  });
  return path;
}

/** Makes it larger, or smaller. */
export function resizeDisk(disk: string, kilobytes: number): void {
  execFileSync('mount', ['-o', `remount,size=${kilobytes}k`, disk]);
}

/** Takes up space until it is deleted. */
export function padding(disk: string, kilobytes: number): string {
  const path = join(disk, 'padding');
  writeFileSync(path, new Uint8Array(kilobytes * 1024));
  return path;
}

/** Takes up all the space there is until it is deleted. */
export function fillUp(disk: string): string {
  const path = join(disk, 'filling');
  const file = openSync(path, 'w');
  const piece = new Uint8Array(64 * 1024);
  try {
    for (;;) writeSync(file, piece);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
  } finally {
    closeSync(file);
  }
  return path;
}
