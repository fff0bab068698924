/**
 * The set-up: dependencies, protocol code, build, tensor engine; each only if it is not up to date. Needs
 * Node and npm, no package. May be interrupted at any point and run any number of times at once.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build, isBuilt } from './build.mjs';
import { areDependenciesInstalled, installDependencies, isLinked } from './dependencies.mjs';
import { withLock } from './lock.mjs';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const ENGINE_PLACE = 'node_modules/@tensorflow/tfjs-node-gpu/lib/napi-v8/tfjs_binding.node';

/** Does what is left to do; `engine: false` stops before the tensor engine. Says on stderr what it does. */
export async function setUp({ root = ROOT, engine = true } = {}) {
  const missing = unsuitableNode(root, process.versions.node);
  if (missing) throw new Error(missing);
  if (!areDependenciesInstalled(root) || !isBuilt(root)) {
    await withLock(join(root, '.setup/lock'), () => makeReady(root), { onWait: sayWaiting });
  }
  if (engine) await setUpEngine(root);
}

async function makeReady(root) {
  if (!areDependenciesInstalled(root)) {
    await timed('dependencies: npm ci', () => installDependencies(root, { onWait: sayWaiting }));
  }
  if (!isBuilt(root)) await timed('build', () => build({ root }));
}

/** In a checkout whose node_modules is a link, an engine that is there belongs to the checkout linked to. */
async function setUpEngine(root) {
  if (isLinked(root) && existsSync(join(root, ENGINE_PLACE))) return;
  const compiled = (path) => import(pathToFileURL(join(root, 'dist/src', path)).href);
  const [{ ensureEngine }, { progressPrinter }, { readEnvironment }] = await Promise.all([
    compiled('trainer/engine/install.js'),
    compiled('trainer/engine/progress.js'),
    compiled('config/environment.js'),
  ]);
  const onProgress = progressPrinter(process.stderr, 'setup: engine: ');
  await ensureEngine({ cacheDir: readEnvironment().cacheDir, onProgress });
}

/** One sentence if this Node is too old, with the command that installs a newer one. */
export function unsuitableNode(root, version) {
  const range = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).engines.node; // ">=20.19"
  const least = range.replace('>=', '');
  const [major, minor] = version.split('.').map(Number);
  const [leastMajor, leastMinor] = least.split('.').map(Number);
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor)) return undefined;
  return (
    `Node ${least} or newer is needed and this is ${version}; install it with: ` +
    'curl -fsSL https://deb.nodesource.com/setup_22.x | sudo -E bash - && sudo apt-get install -y nodejs ' +
    '(Debian, Ubuntu), sudo dnf install nodejs22 (Fedora), brew install node@22 (macOS)'
  );
}

async function timed(what, action) {
  say(`${what} …`);
  const startMs = performance.now();
  await action();
  say(`${what}: done in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
}

function sayWaiting(holder) {
  say(`waiting for ${holder}, which is setting up this folder too`);
}

function say(text) {
  process.stderr.write(`setup: ${text}\n`);
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await setUp();
    say(`ready after ${(performance.now() / 1000).toFixed(1)} s; \`npm start\` trains a small model`);
  } catch (error) {
    say(error.message);
    process.exitCode = 1;
  }
}
