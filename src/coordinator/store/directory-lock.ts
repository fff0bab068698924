/**
 * One coordinator per run directory: a file `lock` that names the process that holds it. The lock of
 * a process that has ended is taken over; that is told by pid and start time, so a pid used again does
 * not count.
 */
import { randomUUID } from 'node:crypto';
import { link, readFile, readlink, rename, rm, unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { OperatingError } from '../../errors.ts';
import { writeSynced } from '../../files/atomic.ts';
import { explaining, systemErrorCode } from '../../files/system-error.ts';

export const LOCK_FILE = 'lock';
/** Attempts at taking over a lock that others take over too. */
const MAX_ATTEMPTS = 100;

/** The process that holds a lock. Null: this system does not tell. */
export interface LockOwner {
  readonly pid: number;
  /** Start of the process in clock ticks since the machine booted. */
  readonly startTicks: string | null;
  readonly bootId: string | null;
  /** Pids mean something only within one namespace: containers have their own. */
  readonly pidNamespace: string | null;
  readonly host: string;
}

/** Whether a process still runs; unknown where it cannot be seen from here. */
export type Liveness = 'alive' | 'dead' | 'unknown';

/** A lock that is held. */
export interface DirectoryLock {
  release(): Promise<void>;
}

/**
 * Takes the lock of `dir`. `onNotice` is told when one is taken over.
 * @throws OperatingError when another process holds it or the directory cannot be written.
 */
export async function lockDirectory(dir: string, onNotice: (text: string) => void): Promise<DirectoryLock> {
  const path = join(dir, LOCK_FILE);
  const content = JSON.stringify({ ...(await describeThisProcess()), token: randomUUID() });
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    if (await explaining(`write ${dir}`, createExclusively(path, content))) {
      return { release: () => releaseLock(path, content) };
    }
    const found = await readLock(path);
    if (found === null) continue;
    const liveness = found.owner === null ? 'dead' : await livenessOf(found.owner);
    if (liveness !== 'dead') throw heldBy(dir, path, found.owner as LockOwner, liveness);
    onNotice(
      `${path}: process ${found.owner?.pid ?? '(unreadable)'} that held the lock has ended; taking it over`,
    );
    await explaining(`write ${dir}`, takeOver(path, found.text, content));
  }
  throw new OperatingError(`cannot lock ${dir}: others take the lock again and again`);
}

/** Who holds the lock of `dir` and whether it still runs; null when nobody does. */
export async function readLockOwner(
  dir: string,
): Promise<{ owner: LockOwner | null; liveness: Liveness } | null> {
  const found = await readLock(join(dir, LOCK_FILE));
  if (found === null) return null;
  return { owner: found.owner, liveness: found.owner === null ? 'dead' : await livenessOf(found.owner) };
}

/** Whether the owner of a lock still runs, as far as can be told from this process. */
export async function livenessOf(owner: LockOwner): Promise<Liveness> {
  const self = await describeThisProcess();
  if (owner.bootId !== self.bootId && owner.host === self.host) return 'dead'; // rebooted since
  if (owner.bootId !== self.bootId) return 'unknown'; // another machine
  // A container that was started again keeps its host name; its old processes are gone.
  if (owner.pidNamespace !== self.pidNamespace) return owner.host === self.host ? 'dead' : 'unknown';
  if (owner.startTicks !== null)
    return (await startTicksOf(owner.pid)) === owner.startTicks ? 'alive' : 'dead';
  if (owner.host !== self.host) return 'unknown';
  return isPidInUse(owner.pid) ? 'alive' : 'dead';
}

function heldBy(dir: string, path: string, owner: LockOwner, liveness: 'alive' | 'unknown'): OperatingError {
  const who = `process ${owner.pid} on ${owner.host}`;
  if (liveness === 'alive') return new OperatingError(`${dir} is in use by ${who}; stop it first`);
  return new OperatingError(
    `${dir} is locked by ${who}, which cannot be seen from here; if it has ended, delete ${path} and try again`,
  );
}

async function describeThisProcess(): Promise<LockOwner> {
  const [startTicks, bootId, pidNamespace] = await Promise.all([
    startTicksOf(process.pid),
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').then(
      (text) => text.trim(),
      () => null,
    ),
    readlink('/proc/self/ns/pid').catch(() => null),
  ]);
  return { pid: process.pid, startTicks, bootId, pidNamespace, host: hostname() };
}

/** Null when there is no such process, or no /proc. A zombie counts as ended. */
async function startTicksOf(pid: number): Promise<string | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The command, in parentheses, may contain anything; the fields after it count from 3.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? null : (fields[19] ?? null);
}

function isPidInUse(pid: number): boolean {
  try {
    process.kill(pid, 0); // 0 asks only
    return true;
  } catch (error) {
    return systemErrorCode(error) === 'EPERM';
  }
}

/** Creates the file with its content in one go; false when it exists. */
async function createExclusively(path: string, content: string): Promise<boolean> {
  const temporary = `${path}.${randomUUID()}`;
  try {
    await writeSynced(temporary, content);
    await link(temporary, path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

/** Null when there is no lock; owner null when it says nothing readable. */
async function readLock(path: string): Promise<{ text: string; owner: LockOwner | null } | null> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return null;
    return await explaining(`read ${path}`, Promise.reject(error as Error));
  }
  return { text, owner: parseOwner(text) };
}

function parseOwner(text: string): LockOwner | null {
  try {
    const value = JSON.parse(text) as Partial<Record<keyof LockOwner, unknown>> | null;
    if (typeof value?.pid !== 'number' || typeof value.host !== 'string') return null;
    const orNull = (field: unknown): string | null => (typeof field === 'string' ? field : null);
    return {
      pid: value.pid,
      startTicks: orNull(value.startTicks),
      bootId: orNull(value.bootId),
      pidNamespace: orNull(value.pidNamespace),
      host: value.host,
    };
  } catch {
    return null;
  }
}

/**
 * Deletes a stale lock. Only the holder of a second file may do so: otherwise one who read the stale
 * lock late could delete the new lock of one who was faster.
 */
async function takeOver(path: string, staleText: string, content: string): Promise<void> {
  const claim = `${path}.takeover`;
  if (!(await createExclusively(claim, content))) {
    const other = await readLock(claim);
    const isDead = other !== null && (other.owner === null || (await livenessOf(other.owner)) === 'dead');
    if (isDead) await removeExactly(claim, other.text); // it died in the middle of this
    return;
  }
  try {
    if ((await readLock(path))?.text === staleText) await unlink(path);
  } finally {
    await rm(claim, { force: true });
  }
}

/** Deletes a file if it is still the one that was read: two may find the same stale lock at once. */
async function removeExactly(path: string, text: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return;
    throw error;
  }
  if ((await readFile(aside, 'utf8')) !== text) await link(aside, path).catch(() => {});
  await unlink(aside);
}

async function releaseLock(path: string, content: string): Promise<void> {
  const found = await readLock(path);
  if (found?.text === content) await explaining(`delete ${path}`, rm(path, { force: true }));
}
