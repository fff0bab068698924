/**
 * Where tfjs' package for Node lies. In a checkout npm has installed it. A packed galore-swarm brings it along
 * (scripts/vendor.mjs): without its installer, which would download another TensorFlow, and changed so that it
 * takes the addon it is told to take: its folder may belong to another user, or be read-only.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EngineError } from '../../errors.ts';

const require = createRequire(import.meta.url);

/** Four folders up from dist/src/trainer/engine. */
const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const BROUGHT = join(ROOT, 'vendor/tfjs-node-gpu');
/** What the tfjs that was brought along asks for when it is loaded. */
const ADDON_PATH = Symbol.for('galore-swarm.addon');

const isPacked = !existsSync(join(ROOT, 'tsconfig.json'));

/** The folder of the tfjs package that this installation of galore-swarm uses. @throws EngineError if it has none */
export function tfjsPackageDir(): string {
  const name = isPacked ? '@tensorflow/tfjs' : '@tensorflow/tfjs-node-gpu';
  try {
    const installed = dirname(require.resolve(`${name}/package.json`));
    return isPacked ? BROUGHT : installed;
  } catch (cause) {
    throw new EngineError(
      `${name} is missing: this galore-swarm was installed without its optional dependencies, which is enough for ` +
        'a coordinator; what computes needs them: npm install --include=optional galore-swarm',
      { cause },
    );
  }
}

/** Whether tfjs looks for its addon in its own folder, so that a link has to be put there. */
export function needsLink(packageDir: string): boolean {
  return !isPacked || packageDir !== BROUGHT;
}

/** Tells the tfjs that was brought along, before it is loaded, where its addon is. */
export function setAddonPath(path: string): void {
  Object.assign(globalThis, { [ADDON_PATH]: path });
}
