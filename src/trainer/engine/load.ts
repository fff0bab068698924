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
import { ADDON, tfjsPackageDir } from './compile.ts';
import { installAdamwKernel } from './adamw-kernel.ts';
import { installBf16Products } from './bf16-products.ts';
import { describeDevice, type Device, type Precision } from './device.ts';
import { placeOf } from './place.ts';
import { thisHost, unsupportedPlatform } from './platform.ts';

export interface LoadOptions {
  /** bf16: matrix products in bf16 with f32 in and out, on processors that can; everything else in f32. */
  readonly precision: Precision;
  /** CPU threads of one operation; at least 1. */
  readonly threads: number;
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
  loaded ??= { options, engine: load(options) };
  try {
    return await loaded.engine;
  } catch (error) {
    loaded = undefined; // it may be installed and asked for again
    throw error;
  }
}

async function load(options: LoadOptions): Promise<Engine> {
  mustBeLoadable();
  setEnvironment(options);
  replaceRemovedFunctions();
  let tf: typeof tensorflow;
  try {
    tf = (await import('@tensorflow/tfjs-node-gpu')).default;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(`the engine could not be loaded: ${reason}; run \`galore engine install\``, {
      cause,
    });
  }
  tf.enableProdMode();
  const device = describeDevice(tf, options);
  installAdamwKernel(tf);
  if (device.kind === 'cpu' && device.precision === 'bf16' && device.isPrecisionNative)
    installBf16Products(tf);
  return { tf, device };
}

function mustBeLoadable(): void {
  if (!isMainThread) throw new EngineError('the engine runs on the main thread of a process only');
  const unsupported = unsupportedPlatform(thisHost());
  if (unsupported) throw new EngineError(unsupported);
  const packageDir = tfjsPackageDir();
  if (!existsSync(join(placeOf(packageDir), ADDON))) {
    throw new EngineError('the engine is not installed; run `galore engine install`');
  }
  if (require.cache[require.resolve('@tensorflow/tfjs-node-gpu')]) {
    throw new EngineError(
      'tfjs was imported before loadEngine was called, so its settings have no effect; ' +
        'import the modules that use it after loadEngine',
    );
  }
}

/** TensorFlow, oneDNN and CUDA take these settings from nowhere else: this file alone may write them. */
function setEnvironment({ precision, threads }: LoadOptions): void {
  Object.assign(
    process.env, // oxlint-disable-line node/no-process-env
    {
      TF_CPP_MIN_LOG_LEVEL: '2', // errors only
      TF_NUM_INTRAOP_THREADS: String(threads),
      TF_NUM_INTEROP_THREADS: '1', // tfjs runs one operation at a time
      OMP_NUM_THREADS: String(threads),
      // Which products are in bf16 is for the program to say (bf16-products.ts), not for oneDNN.
      ONEDNN_DEFAULT_FPMATH_MODE: 'STRICT',
      NVIDIA_TF32_OVERRIDE: precision === 'bf16' ? '1' : '0', // without it "f32" on a GPU would be TF32
      TF_FORCE_GPU_ALLOW_GROWTH: 'true', // so that two trainers can share a GPU
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
