import test from 'ava';
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { EngineError } from '../../../src/errors.ts';
import { isEngineInstalled } from '../../../src/trainer/engine/install.ts';
import { place } from '../../../src/trainer/engine/place.ts';
import { missingTools } from '../../../src/trainer/engine/prerequisites.ts';
import { writeFiles } from '../../scripts/folder.ts';
import { HOST, machine, type Machine } from './machine.ts';

const EVERYTHING = ['look for python3 pip g++', 'fetch tiny', 'unpack', 'compile'];

function placeOf({ packageDir }: Machine): string {
  return join(packageDir, 'lib/napi-v8');
}

/** The path of the one file of that name in the cache. */
function cached({ cacheDir }: Machine, name: string): string {
  const paths = readdirSync(cacheDir, { recursive: true, encoding: 'utf8' });
  const found = paths.filter((path) => path.endsWith(`/${name}`));
  if (found.length !== 1) throw new Error(`${found.length} files called ${name}`);
  return join(cacheDir, found[0] ?? '');
}

/** Changes a file without changing its size or its times, as a failing disk does. */
function rot(path: string): void {
  const time = new Date('2026-01-01T00:00:00Z');
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, `X${text.slice(1)}`);
  utimesSync(path, time, time);
}

test('a first installation fetches, unpacks, compiles and links, and says so', async (t) => {
  const m = machine(t);
  const installed = await m.ensure();
  t.true(installed.isChanged);
  t.is(installed.tensorflowVersion, '9.9.9');
  t.deepEqual(m.log, EVERYTHING);
  t.is(readlinkSync(placeOf(m)), installed.folder);
  t.true(existsSync(join(placeOf(m), 'tfjs_binding.node')));
  t.deepEqual(m.messages, [
    `TensorFlow 9.9.9 (cpu): 0.0 GB to download, 0.0 GB of disk meanwhile, 0.0 GB afterwards, in ${m.cacheDir}/engine`,
    'downloading TensorFlow 9.9.9 (0 MB, once per user)',
    'unpacking TensorFlow 9.9.9',
    'compiling the addon (about 10 s)',
    'TensorFlow 9.9.9 (cpu) is in place',
  ]);
  const left = readdirSync(join(m.cacheDir, 'engine')).filter((name) => !name.startsWith('cpu-'));
  t.deepEqual(left, ['libraries'], 'no download, lock or work folder stays behind');
});

test('an engine that is in place is left alone, without a word', async (t) => {
  const m = machine(t);
  await m.ensure();
  m.log.length = m.messages.length = 0;
  t.false((await m.ensure()).isChanged);
  t.false((await m.ensure({ thoroughness: 'full' })).isChanged);
  t.deepEqual([m.log, m.messages], [[], []]);
});

test('a second checkout uses the cache and only links', async (t) => {
  const m = machine(t);
  await m.ensure();
  m.log.length = 0;
  rmSync(placeOf(m));
  t.true((await m.ensure()).isChanged);
  t.deepEqual(m.log, ['look for ']);
  t.true(existsSync(join(placeOf(m), 'tfjs_binding.node')));
});

test('an installation that was killed after its download goes on without another one', async (t) => {
  const m = machine(t);
  const killed = { unpackWheel: () => Promise.reject(new Error('killed')) };
  await t.throwsAsync(m.ensure({ steps: killed }), { message: 'killed' });
  t.false(existsSync(placeOf(m)));
  m.log.length = 0;
  await m.ensure();
  t.deepEqual(m.log, ['look for python3 pip g++', 'unpack', 'compile']);
});

test('an installation that was killed after unpacking goes on with the compiler', async (t) => {
  const m = machine(t);
  const killed = { compileAddon: () => Promise.reject(new Error('killed')) };
  await t.throwsAsync(m.ensure({ steps: killed }), { message: 'killed' });
  m.log.length = 0;
  await m.ensure();
  t.deepEqual(m.log, ['look for g++', 'compile']);
});

test('what a killed process left, its lock included, is cleared away', async (t) => {
  const m = machine(t);
  const { pid } = spawnSync(process.execPath, ['--version']);
  writeFiles(join(m.cacheDir, 'engine'), {
    lock: JSON.stringify({ pid, host: hostname() }),
    'staging-1/library/tensorflow/libtensorflow_cc.so.2': 'half of it',
    'downloads/tiny-cpu.whl': 'half of it',
  });
  await m.ensure();
  t.deepEqual(m.log, EVERYTHING);
  t.false(existsSync(join(m.cacheDir, 'engine/staging-1')));
});

test('of two installations at once one does the work and the other waits for it', async (t) => {
  const m = machine(t);
  const [first, second] = await Promise.all([m.ensure(), m.ensure()]);
  t.deepEqual(m.log, EVERYTHING);
  t.is(first.folder, second.folder);
  t.true(m.messages.includes(`waiting for process ${process.pid}, which is installing the engine`));
});

test('a library that was cut short is noticed and replaced, saying why', async (t) => {
  const m = machine(t);
  await m.ensure();
  m.log.length = m.messages.length = 0;
  writeFileSync(cached(m, 'libtensorflow_cc.so.2'), 'lib');
  await m.ensure();
  t.deepEqual(m.log, ['look for python3 pip', 'fetch tiny', 'unpack']);
  t.regex(
    m.messages[0] ?? '',
    /^the TensorFlow libraries in the cache cannot be used \(tensorflow\/libtensorflow_cc\.so\.2 has 3 bytes/,
  );
  t.regex(readFileSync(cached(m, 'libtensorflow_cc.so.2'), 'utf8'), /of the bytes of a wheel$/);
});

test('an addon that is missing is compiled again without a download', async (t) => {
  const m = machine(t);
  await m.ensure();
  m.log.length = 0;
  rmSync(cached(m, 'tfjs_backend.so'));
  await m.ensure();
  t.deepEqual(m.log, ['look for g++', 'compile']);
});

test('a file with other times is compared by content, and by its new times from then on', async (t) => {
  const m = machine(t);
  await m.ensure();
  m.log.length = 0;
  const library = cached(m, 'libtensorflow_cc.so.2');
  const time = new Date('2026-01-01T00:00:00Z');
  utimesSync(library, time, time);
  t.false((await m.ensure()).isChanged);
  rot(library);
  t.false((await m.ensure()).isChanged, 'a quick look trusts size and times');
  t.true((await m.ensure({ thoroughness: 'full' })).isChanged, 'a full one does not');
  t.deepEqual(m.log, ['look for python3 pip', 'fetch tiny', 'unpack']);
});

test('a changed source of the addon gives another engine, with the same libraries', async (t) => {
  const m = machine(t);
  const first = await m.ensure();
  m.log.length = 0;
  writeFiles(m.packageDir, { 'binding/tfjs_backend.cc': '// patched' });
  const second = await m.ensure();
  t.not(second.folder, first.folder);
  t.deepEqual(m.log, ['look for g++', 'compile']);
  t.is(readlinkSync(placeOf(m)), second.folder);
});

test('an engine of another C library is another engine', async (t) => {
  const m = machine(t);
  const first = await m.ensure();
  const second = await m.ensure({ steps: { host: { ...HOST, glibc: '2.39' } } });
  t.not(second.folder, first.folder);
});

test('a folder that another installer put in the place is replaced', async (t) => {
  const m = machine(t);
  writeFiles(placeOf(m), { 'tfjs_binding.node': 'of an old TensorFlow' });
  const installed = await m.ensure();
  t.is(readlinkSync(placeOf(m)), installed.folder);
  t.deepEqual(readdirSync(join(m.packageDir, 'lib')), ['napi-v8']);
});

test('the GPU build has NVIDIA’s libraries beside it, and lies beside the CPU build', async (t) => {
  const m = machine(t);
  const cpu = await m.ensure();
  m.log.length = 0;
  const gpu = await m.ensure({ variant: 'gpu' });
  t.deepEqual(m.log, [
    'look for python3 pip g++',
    ...['fetch tiny', 'fetch nvidia-tiny', 'unpack', 'unpack', 'compile'],
  ]);
  t.is(readFileSync(join(gpu.folder, '../nvidia/cublas/lib/libcublas.so.12'), 'utf8'), 'cublas');
  t.is(readlinkSync(placeOf(m)), cpu.folder, 'what tests and benches import stays what it was');
  m.log.length = 0;
  t.false((await m.ensure({ variant: 'gpu', thoroughness: 'full' })).isChanged);
  t.false((await m.ensure()).isChanged);
  t.is((await m.ensure()).variant, 'cpu', 'the CPU build is what is meant where nothing is said');
  t.deepEqual(m.log, []);
});

test('the GPU build alone is linked until the CPU build comes', async (t) => {
  const m = machine(t);
  const gpu = await m.ensure({ variant: 'gpu' });
  t.is(readlinkSync(placeOf(m)), gpu.folder);
  const cpu = await m.ensure();
  t.is(readlinkSync(placeOf(m)), cpu.folder);
  t.false((await m.ensure({ variant: 'gpu' })).isChanged);
});

test('a build counts as installed when libraries and addon are whole', async (t) => {
  const m = machine(t);
  const isInstalled = (variant: 'cpu' | 'gpu'): Promise<boolean> => isEngineInstalled(m.options, variant);
  t.false(await isInstalled('gpu'));
  const { folder } = await m.ensure({ variant: 'gpu' });
  t.true(await isInstalled('gpu'));
  t.false(await isInstalled('cpu'));
  rmSync(join(folder, 'tfjs_backend.so'));
  t.false(await isInstalled('gpu'));
});

test('an installation that was killed between two wheels fetches only the second one', async (t) => {
  const m = machine(t);
  const killed: typeof m.steps.fetchWheel = (wheel, folder, onShare) =>
    wheel.file.startsWith('nvidia')
      ? Promise.reject(new Error('killed'))
      : m.steps.fetchWheel(wheel, folder, onShare);
  await t.throwsAsync(m.ensure({ variant: 'gpu', steps: { fetchWheel: killed } }), { message: 'killed' });
  m.log.length = 0;
  await m.ensure({ variant: 'gpu' });
  t.deepEqual(m.log.slice(1), ['fetch nvidia-tiny', 'unpack', 'unpack', 'compile']);
});

test('a damaged NVIDIA library is noticed', async (t) => {
  const m = machine(t);
  const { folder } = await m.ensure({ variant: 'gpu' });
  writeFileSync(join(folder, '../nvidia/cublas/lib/libcublas.so.12'), 'cub');
  m.log.length = 0;
  await m.ensure({ variant: 'gpu' });
  t.deepEqual(m.log, ['look for python3 pip', 'fetch tiny', 'fetch nvidia-tiny', 'unpack', 'unpack']);
});

test('missing tools end the installation before anything is fetched', async (t) => {
  const m = machine(t, { missingTools: (tools) => missingTools(tools, () => Promise.resolve(false)) });
  const error = await t.throwsAsync(m.ensure(), { instanceOf: EngineError });
  t.regex(error.message, /^python3, pip, g\+\+ are missing/);
  t.deepEqual(m.log, []);
});

test('an unsupported platform is refused before anything is written', async (t) => {
  const m = machine(t);
  const host = { ...HOST, platform: 'darwin', arch: 'arm64' };
  await t.throwsAsync(m.ensure({ steps: { host } }), { instanceOf: EngineError, message: /darwin arm64/ });
  t.false(existsSync(m.cacheDir));
});

test('a disk without room is named, with what is needed and what is free', async (t) => {
  const m = machine(t);
  const { releases } = m.steps;
  const huge = { ...releases.cpu, unpackedBytes: 1e18 };
  await t.throwsAsync(m.ensure({ steps: { releases: { ...releases, cpu: huge } } }), {
    instanceOf: EngineError,
    message:
      /^the engine \(cpu\) needs 1000000000\.0 GB in .* while it is being installed, 1000000000\.0 GB afterwards, and [\d.]+ GB are free: [\d.]+ GB are missing; make room or set GALORE_CACHE_DIR/,
  });
  t.deepEqual(m.log, ['look for python3 pip g++'], 'nothing was fetched');
});

test('a package folder that may not be written is an error that says who can', async (t) => {
  // The system's own folder takes no files from anyone, the superuser included.
  await t.throwsAsync(place('/sys', '/nowhere'), {
    instanceOf: EngineError,
    message:
      /^the engine cannot be linked into \/sys\/lib, which this user may not write; run `galore engine/,
  });
});
