/** A made-up engine for tests: a wheel of some bytes, libraries of one word, and a count of what was done. */
import type { ExecutionContext } from 'ava';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '#scripts/setup';
import { findWheelFault } from '../../../src/trainer/engine/fetch.ts';
import { ADDON_FILES } from '../../../src/trainer/engine/compile.ts';
import { ensureEngine, type EngineOptions, type InstallSteps } from '../../../src/trainer/engine/install.ts';
import type { Host } from '../../../src/trainer/engine/platform.ts';
import { LIBRARY_FILES, type EngineRelease } from '../../../src/trainer/engine/release.ts';
import { emptyFolder, writeFiles } from '../../scripts/folder.ts';

export const HOST: Host = {
  platform: 'linux',
  arch: 'x64',
  glibc: '2.36',
  cpuModel: 'a processor',
  cpuFlags: new Set(['avx']),
};

const WHEEL = 'the bytes of a wheel';

const TINY = { bytes: WHEEL.length, sha256: createHash('sha256').update(WHEEL).digest('hex') };

function release(variant: 'cpu' | 'gpu'): EngineRelease {
  return {
    variant,
    version: '9.9.9',
    wheel: { ...TINY, requirement: 'tiny==9.9.9', file: `tiny-${variant}.whl` },
    companions:
      variant === 'gpu' ? [{ ...TINY, requirement: 'nvidia-tiny==1', file: 'nvidia-tiny.whl' }] : [],
    unpackedBytes: 1,
  };
}

export interface Machine {
  readonly cacheDir: string;
  readonly packageDir: string;
  /** What was done, in order. */
  readonly log: string[];
  /** What was said, in order. */
  readonly messages: string[];
  readonly steps: InstallSteps;
  /** What every call of `ensure` is given. */
  readonly options: EngineOptions;
  readonly ensure: (options?: Partial<EngineOptions>) => ReturnType<typeof ensureEngine>;
}

/** A machine without an engine. `overrides` replace steps of the installation. */
export function machine(t: ExecutionContext, overrides: Partial<InstallSteps> = {}): Machine {
  const folder = emptyFolder(t);
  const cacheDir = join(folder, 'cache');
  const packageDir = join(folder, 'tfjs');
  cpSync(join(ROOT, 'node_modules/@tensorflow/tfjs-node-gpu/binding'), join(packageDir, 'binding'), {
    recursive: true,
  });
  writeFiles(packageDir, { 'package.json': '{ "version": "4.22.0" }' });
  const log: string[] = [];
  const messages: string[] = [];
  const steps = { ...madeUpSteps(log), ...overrides };
  const options: EngineOptions = {
    cacheDir,
    packageDir,
    steps,
    onProgress: ({ message }) => {
      if (messages.at(-1) !== message) messages.push(message);
    },
  };
  const ensure = (more: Partial<EngineOptions> = {}) =>
    ensureEngine({ ...options, ...more, steps: { ...steps, ...more.steps } });
  return { cacheDir, packageDir, log, messages, steps, options, ensure };
}

function madeUpSteps(log: string[]): InstallSteps {
  return {
    releases: { cpu: release('cpu'), gpu: release('gpu') },
    host: HOST,
    missingTools: (tools) => {
      log.push(`look for ${tools.join(' ')}`);
      return Promise.resolve(undefined);
    },
    fetchWheel: async (wheel, folder, onShare) => {
      const path = join(folder, wheel.file);
      if (!(await findWheelFault(path, wheel))) return path;
      log.push(`fetch ${wheel.requirement.split('==')[0]}`);
      onShare(0.5);
      writeFileSync(path, WHEEL);
      return path;
    },
    unpackWheel: (wheel, folder) => {
      log.push('unpack');
      if (wheel.includes('nvidia')) {
        writeFiles(folder, { 'nvidia/cublas/lib/libcublas.so.12': 'cublas' });
        return Promise.resolve();
      }
      mkdirSync(join(folder, 'tensorflow/include'), { recursive: true });
      for (const name of LIBRARY_FILES) {
        writeFileSync(join(folder, 'tensorflow', name), `${name} of ${readFileSync(wheel, 'utf8')}`);
      }
      return Promise.resolve();
    },
    compileAddon: (_packageDir, libraryDir, folder) => {
      log.push('compile');
      const libraries = LIBRARY_FILES.map((name) => readFileSync(join(libraryDir, name), 'utf8'));
      for (const name of ADDON_FILES) writeFileSync(join(folder, name), `${name} for ${libraries.join()}`);
      return Promise.resolve();
    },
  };
}
