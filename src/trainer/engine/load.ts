/**
 * Loads the tensor engine into this process, once, with the settings that TensorFlow reads from the environment
 * while its library is being loaded. Code that imports tfjs at its top is to be imported after this has run.
 */
import { createRequire } from 'node:module';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import util from 'node:util';
import { isMainThread } from 'node:worker_threads';
import type tensorflow from '@tensorflow/tfjs-node-gpu';
import { EngineError } from '../../errors.ts';
import { ADDON } from './compile.ts';
import { installAdamwKernel } from './adamw-kernel.ts';
import { installBf16Products } from './bf16-products.ts';
import { describeDevice, isOnGpu, type Device, type Precision } from './device.ts';
import { placeOf } from './place.ts';
import { thisHost, unsupportedPlatform } from './platform.ts';
import { installFixedSums, installPowerKernels } from './power-kernels.ts';
import type { ReadyDevice } from './ready-device.ts';
import { installStepKernels } from './step-kernels.ts';
import { needsLink, setAddonPath, tfjsPackageDir } from './tfjs-package.ts';

export interface LoadOptions {
  /** bf16: matrix products in bf16 with f32 in and out, on processors that can; everything else in f32. */
  readonly precision: Precision;
  /** CPU threads of one operation; at least 1. */
  readonly threads: number;
  /** From readyDevices: computes there and nowhere else. Default: the build that is linked, as it finds things. */
  readonly device?: ReadyDevice | undefined;
}

export interface Engine {
  readonly tf: typeof tensorflow;
  readonly device: Device;
}

const require = createRequire(import.meta.url);

let loaded: { readonly options: LoadOptions; readonly engine: Promise<Engine> } | undefined;

/**
 * The engine, which must have been installed (install.ts). The same one for every call with the same options.
 * @throws EngineError if it cannot be loaded, or was already loaded with other settings.
 */
export async function loadEngine(options: LoadOptions): Promise<Engine> {
  const { precision, threads } = options;
  if (!Number.isInteger(threads) || threads < 1) {
    throw new EngineError(`threads is ${threads} and has to be a whole number of at least 1`);
  }
  if (loaded && (loaded.options.precision !== precision || loaded.options.threads !== threads)) {
    throw new EngineError(
      `the engine of this process runs with precision ${loaded.options.precision} and threads ` +
        `${loaded.options.threads}; TensorFlow reads its settings once, so others need another process`,
    );
  }
  const [name, loadedName] = [options.device?.name, loaded?.options.device?.name];
  if (loaded && name !== loadedName) {
    throw new EngineError(
      `the engine of this process runs on ${loadedName ?? 'what it found'}, and ${name ?? 'no device'} was asked for; ` +
        'another device needs another process',
    );
  }
  loaded ??= { options, engine: load(options) };
  try {
    return await loaded.engine;
  } catch (error) {
    loaded = undefined; // it may be installed and asked for again
    throw error;
  }
}

async function load(options: LoadOptions): Promise<Engine> {
  mustBeLoadable(options.device);
  setEnvironment(options);
  replaceRemovedFunctions();
  const { device } = options;
  let tf: typeof tensorflow;
  try {
    if (device) replaceAddon(device.folder);
    tf = require(tfjsPackageDir()) as typeof tensorflow; // an import would parse all of it once more
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(`the engine could not be loaded: ${reason}; run \`galore engine install\``, {
      cause,
    });
  }
  if (device?.gpu && !isOnGpu(tf)) {
    const { name, driverVersion } = device.gpu;
    throw new EngineError(
      `TensorFlow cannot compute on ${device.name} (${name}, driver ${driverVersion}); a line above may say why, ` +
        '`galore engine check` tries again, --device cpu computes on the processor',
    );
  }
  tf.enableProdMode();
  const description = describeDevice(tf, { ...options, gpu: device?.gpu ?? null });
  const { kind, precision, isPrecisionNative } = description;
  installAdamwKernel(tf);
  installFixedSums(tf);
  if (kind === 'cpu') installStepKernels(tf);
  if (kind === 'cpu') installPowerKernels(tf);
  if (kind === 'cpu' && precision === 'bf16' && isPrecisionNative) installBf16Products(tf);
  return { tf, device: description };
}

/**
 * Makes tfjs, which is about to be imported, take the addon in `folder` for the one that is linked into its package.
 * So each process has the build its device needs, whatever other processes use.
 */
function replaceAddon(folder: string): void {
  const packageDir = tfjsPackageDir();
  const chosen = require.resolve(join(folder, ADDON));
  if (!needsLink(packageDir)) return setAddonPath(chosen);
  const linked = require.resolve(join(placeOf(packageDir), ADDON));
  if (chosen === linked) return;
  require(chosen);
  require.cache[linked] = require.cache[chosen];
}

function mustBeLoadable(device: ReadyDevice | undefined): void {
  if (!isMainThread) throw new EngineError('the engine runs on the main thread of a process only');
  const unsupported = unsupportedPlatform(thisHost());
  if (unsupported) throw new EngineError(unsupported);
  const packageDir = tfjsPackageDir();
  const folder = needsLink(packageDir) ? placeOf(packageDir) : (device?.folder ?? '');
  if (!existsSync(join(folder, ADDON))) {
    throw new EngineError('the engine is not installed; run `galore engine install`');
  }
  if (require.cache[require.resolve(packageDir)]) {
    throw new EngineError(
      'tfjs was imported before loadEngine was called, so its settings have no effect; ' +
        'import the modules that use it after loadEngine',
    );
  }
}

/** TensorFlow, oneDNN and CUDA take these settings from nowhere else: this file alone may write them. */
function setEnvironment({ precision, threads, device }: LoadOptions): void {
  Object.assign(
    process.env, // oxlint-disable-line node/no-process-env
    // Of several GPUs that it sees, tfjs takes the last: it is shown one. -1: none.
    device ? { CUDA_VISIBLE_DEVICES: device.gpu?.uuid ?? '-1' } : {},
    {
      TF_CPP_MIN_LOG_LEVEL: '2', // errors only
      TF_NUM_INTRAOP_THREADS: String(threads),
      TF_NUM_INTEROP_THREADS: '1', // tfjs runs one operation at a time
      OMP_NUM_THREADS: String(threads),
      OMP_WAIT_POLICY: 'passive', // threads that wait leave the cores to the other operations
      // Which products are in bf16 is for the program to say (bf16-products.ts), not for oneDNN.
      ONEDNN_DEFAULT_FPMATH_MODE: 'STRICT',
      NVIDIA_TF32_OVERRIDE: precision === 'bf16' ? '1' : '0', // without it "f32" on a GPU would be TF32
      TF_FORCE_GPU_ALLOW_GROWTH: 'true', // so that two trainers can share a GPU
      CUDA_CACHE_MAXSIZE: String(2 ** 32), // bytes on disk: kernels compiled for a new GPU do not push each other out
    },
  );
}

/** tfjs calls functions of `util` that Node 22 warns about and Node 23 no longer has. */
function replaceRemovedFunctions(): void {
  const functions: Readonly<Record<string, (value: unknown) => boolean>> = {
    isNullOrUndefined: (value) => value === null || value === undefined,
    isArray: Array.isArray,
  };
  for (const [name, value] of Object.entries(functions)) {
    Object.defineProperty(util, name, { value, configurable: true, writable: true });
  }
}
