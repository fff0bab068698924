/** Installs the npm packages of package-lock.json, once per content of that file. */
import { spawn } from 'node:child_process';
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isSameProcessAlive, startOf } from './lock.mjs';
import { hashFiles, readStamp, writeStamp } from './stamp.mjs';

// Inside node_modules, so that deleting or replacing that folder takes the stamp with it.
const STAMP = 'node_modules/.galore-swarm-stamp';

/** Names the process of the last `npm ci`. */
const RUNNING = '.setup/npm';

/** True if node_modules belongs to another checkout (a link in a git worktree): it is used, never changed. */
export function isLinked(root) {
  return lstatSync(join(root, 'node_modules'), { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}

export function areDependenciesInstalled(root) {
  if (isLinked(root)) return true;
  if (readStamp(join(root, STAMP)) === key(root)) return true;
  if (!matchesHiddenLockfile(root)) return false;
  writeStamp(join(root, STAMP), key(root)); // npm was run by hand: nothing is left to do
  return true;
}

/**
 * Runs `npm ci`. An interrupted one leaves no stamp and is done again from the start. npm goes on when only the
 * set-up that started it is killed, and two of them in one folder spoil it: one that still runs is waited for.
 */
export async function installDependencies(root, { onWait, pollMs = 200 } = {}) {
  let hasTold = false;
  while (isStillRunning(root)) {
    if (!hasTold) onWait?.('npm ci of a set-up that was killed');
    hasTold = true;
    await delay(pollMs);
  }
  if (hasTold && areDependenciesInstalled(root)) return;
  const npm = process.env.npm_execpath;
  const [command, first] = npm?.endsWith('.js') ? [process.execPath, [npm]] : ['npm', []];
  const args = [...first, 'ci', '--include=dev', '--no-audit', '--no-fund'];
  const code = await new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
    child.on('spawn', () => writeStamp(join(root, RUNNING), `${child.pid} ${startOf(child.pid)}`));
    child.on('error', reject);
    child.on('close', resolve);
  });
  if (code !== 0) throw new Error('npm ci failed; the messages above say why');
  writeStamp(join(root, STAMP), key(root));
}

function isStillRunning(root) {
  const [pid, started] = readStamp(join(root, RUNNING))?.split(' ') ?? [];
  return pid !== undefined && isSameProcessAlive(Number(pid), started === 'undefined' ? undefined : started);
}

function key(root) {
  return `${process.platform}-${process.arch} ${hashFiles(root, ['package-lock.json'])}`;
}

/**
 * npm ends an installation by writing what it installed to node_modules/.package-lock.json. Where that
 * file says the same as package-lock.json (packages for other platforms aside), `npm ci` would change nothing.
 */
function matchesHiddenLockfile(root) {
  const installed = packages(join(root, 'node_modules/.package-lock.json'));
  const wanted = packages(join(root, 'package-lock.json'));
  if (!installed || !wanted) return false;
  const isThere = ([path, entry]) =>
    installed[path] === undefined
      ? entry.optional === true
      : installed[path].version === entry.version && existsSync(join(root, path));
  return (
    Object.entries(wanted).every((entry) => entry[0] === '' || isThere(entry)) &&
    Object.keys(installed).every((path) => wanted[path] !== undefined)
  );
}

function packages(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).packages;
  } catch {
    return undefined;
  }
}
