/**
 * A lock between processes: a file that names its holder. Taken over when the holder is dead. Used by
 * the set-up and by the engine's install, so it needs nothing but Node.
 *
 * Whoever takes the lock may rely on mutual exclusion among live processes; the guarded work still ends
 * in an atomic rename, so that even a lock removed by hand costs work, never a half-written result.
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

/** How often a holder shows that it lives, for waiters on another machine that cannot see its process. */
const HEARTBEAT_MS = 10_000;
/** A holder on another machine (or a lock that names no holder) is taken for dead after this silence. */
const SILENCE_MS = 60_000;

/** Waits for the lock at `path`, runs `action`, and gives the lock back whatever happens. */
export async function withLock(path, action, options = {}) {
  const release = await acquireLock(path, options);
  try {
    return await action();
  } finally {
    release();
  }
}

/** Waits for the lock at `path`; the function returned gives it back. `onWait` is told once who holds it. */
export async function acquireLock(path, { onWait, pollMs = 200, silenceMs = SILENCE_MS } = {}) {
  mkdirSync(dirname(path), { recursive: true });
  const mine = JSON.stringify({
    pid: process.pid,
    started: startOf(process.pid),
    host: hostname(),
    token: randomUUID(),
  });
  let hasTold = false;
  while (!create(path, mine)) {
    const holder = read(path);
    if (holder === undefined) continue; // given back in between
    if (isDead(holder, silenceMs)) {
      removeDead(path, holder.text);
      continue;
    }
    if (!hasTold) onWait?.(holder.pid === undefined ? 'another process' : `process ${holder.pid}`);
    hasTold = true;
    await delay(pollMs);
  }
  const heartbeat = setInterval(() => touch(path), HEARTBEAT_MS);
  heartbeat.unref();
  return () => {
    clearInterval(heartbeat);
    if (read(path)?.text === mine) rmSync(path, { force: true });
  };
}

function create(path, text) {
  try {
    writeFileSync(path, text, { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
}

function read(path) {
  try {
    const text = readFileSync(path, 'utf8');
    const silentMs = Date.now() - statSync(path).mtimeMs;
    try {
      return { text, silentMs, ...JSON.parse(text) };
    } catch {
      return { text, silentMs }; // created a moment ago and not written yet, or damaged
    }
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function isDead(holder, silenceMs) {
  if (holder.pid === undefined || holder.host !== hostname()) return holder.silentMs > silenceMs;
  return !isSameProcessAlive(holder.pid, holder.started);
}

/** True if the process `pid` runs and is the one that `startOf` gave `started` for. */
export function isSameProcessAlive(pid, started) {
  return isAlive(pid) && started === startOf(pid);
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** When a process started, in ticks since boot: tells a process from a later one with the same id. */
export function startOf(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined; // no /proc: the process id alone decides
  }
}

/** Moves the dead holder's file aside before deleting it, and puts back a live one taken by mistake. */
function removeDead(path, text) {
  const aside = `${path}.${process.pid}.${randomUUID()}`;
  try {
    renameSync(path, aside);
  } catch (error) {
    if (error.code === 'ENOENT') return; // another waiter was faster
    throw error;
  }
  const moved = readFileSync(aside, 'utf8');
  if (moved !== text) create(path, moved);
  rmSync(aside, { force: true });
}

function touch(path) {
  try {
    const now = new Date();
    utimesSync(path, now, now);
  } catch {
    // The lock's folder was deleted; there is nothing left to guard.
  }
}
