/** Compiles the addon between Node and TensorFlow from the sources that ship with tfjs. */
import { rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hashFiles } from '#scripts/stamp';
import { thisHost } from './platform.ts';
import { runProgram } from './program.ts';
import { LIBRARY_FILES } from './release.ts';

const require = createRequire(import.meta.url);

const FLAGS = ['-O2', '-fPIC', '-shared', '-std=c++17', '-DNAPI_VERSION=8', '-Wl,-rpath,$ORIGIN'];
const BACKEND = 'tfjs_backend.so';
/** The name tfjs looks for. */
export const ADDON = 'tfjs_binding.node';

/** Sources lie in src/ also where this file runs from dist/. */
const SOURCES = fileURLToPath(new URL('../../../../src/trainer/engine/', import.meta.url));
const QUIET_BINDING = 'quiet-binding.cc';
const KERNEL_HEADER = 'kernel-call.h';
/** Files of our own kernels, with what each is compiled with beside `kernelFlags`. */
const KERNELS: Readonly<Record<string, readonly string[]>> = {
  'step-kernels.cc': [],
  'power-kernels.cc': [],
  // The same bits as JavaScript, which has no fused multiply-add.
  'orthonormal-kernels.cc': ['-ffp-contract=off'],
};

export function tfjsVersion(packageDir: string): string {
  return (require(join(packageDir, 'package.json')) as { version: string }).version;
}

/** Hash of everything the addon is compiled from, the libraries aside. */
export function addonSourcesHash(packageDir: string): string {
  const parts = [
    hashFiles(packageDir, ['binding']),
    hashFiles(SOURCES, [QUIET_BINDING, KERNEL_HEADER, ...Object.keys(KERNELS)]),
    hashFiles(headersDir(), ['.']),
    [...FLAGS, ...kernelFlags(thisHost().cpuFlags), ...Object.values(KERNELS).flat()].join(' '),
  ];
  return parts.join('\n');
}

/**
 * Fills the folder that tfjs loads: the addon, and the libraries as links to `libraryDir`, which holds them
 * and their headers. Links, so that the addon can be compiled again without another download; relative ones,
 * so that the folder and the libraries can move together.
 */
export async function compileAddon(packageDir: string, libraryDir: string, folder: string): Promise<void> {
  for (const name of LIBRARY_FILES)
    await symlink(join(relative(folder, libraryDir), name), join(folder, name));
  await symlink('libtensorflow_cc.so.2', join(folder, 'libtensorflow.so')); // the names -l looks for
  await symlink('libtensorflow_framework.so.2', join(folder, 'libtensorflow_framework.so'));
  const includes = ['-I', headersDir(), '-I', join(libraryDir, 'include')];
  const sources = ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(packageDir, 'binding', name));
  const libraries = [`-L${folder}`, '-ltensorflow', '-ltensorflow_framework'];
  const kernels = Object.entries(KERNELS).map(([source, flags]) => ({
    object: join(folder, `${source}.o`),
    flags: ['-c', ...kernelFlags(thisHost().cpuFlags), ...flags, join(SOURCES, source)],
  }));
  for (const { object, flags } of kernels)
    await runProgram('g++', [...FLAGS, ...includes, ...flags, '-o', object]);
  const objects = kernels.map(({ object }) => object);
  const forBackend = ['-fopenmp', ...sources, ...objects, ...libraries, '-o', join(folder, BACKEND)];
  await runProgram('g++', [...FLAGS, ...includes, ...forBackend]);
  for (const object of objects) await rm(object);
  const forAddon = [join(SOURCES, QUIET_BINDING), '-ldl', '-o', join(folder, ADDON)];
  await runProgram('g++', [...FLAGS, ...includes, ...forAddon]);
}

/** For loops over many numbers: as wide as this processor computes. The engine's key tells such builds apart. */
function kernelFlags(cpuFlags: ReadonlySet<string>): string[] {
  const flags = ['-O3', '-fopenmp'];
  const has = (...names: readonly string[]): boolean => names.every((name) => cpuFlags.has(name));
  if (has('avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl', 'fma', 'bmi2')) {
    return [...flags, '-march=skylake-avx512', '-mno-pku', '-mprefer-vector-width=512'];
  }
  return has('avx2', 'fma', 'bmi2', 'movbe') ? [...flags, '-march=haswell'] : flags;
}

/** The files in the folder that `compileAddon` makes. */
export const ADDON_FILES: readonly string[] = [ADDON, BACKEND];

function headersDir(): string {
  return join(dirname(require.resolve('node-api-headers/package.json')), 'include');
}
