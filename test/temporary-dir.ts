/** A directory of a test's own, gone after it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** Path of a new empty directory. */
export function temporaryDir(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'galore-test-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}
