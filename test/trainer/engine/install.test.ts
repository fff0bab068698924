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
import { place } from '../../../src/trainer/engine/place.ts';
import { missingTools } from '../../../src/trainer/engine/prerequisites.ts';
import { writeFiles } from '../../scripts/folder.ts';
import { HOST, machine, type Machine } from './machine.ts';

const EVERYTHING = ['look for python3 pip g++', 'fetch', 'unpack', 'compile'];

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
    'downloading TensorFlow 9.9.9 (0 MB, once per user)',
    'unpacking TensorFlow',
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
  t.deepEqual(m.log, ['look for python3 pip', 'fetch', 'unpack']);
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
  t.deepEqual(m.log, ['look for python3 pip', 'fetch', 'unpack']);
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

test('the GPU engine has NVIDIA’s libraries beside it and stays chosen until the other is asked for', async (t) => {
  const m = machine(t);
  const gpu = await m.ensure({ variant: 'gpu' });
  t.deepEqual(m.log, ['look for python3 pip g++', 'fetch', 'unpack', 'companions', 'compile']);
  t.is(readFileSync(join(gpu.folder, '../nvidia/cublas/lib/libcublas.so.12'), 'utf8'), 'cublas');
  t.is((await m.ensure()).variant, 'gpu');
  t.is((await m.ensure({ variant: 'cpu' })).variant, 'cpu');
  t.is((await m.ensure()).variant, 'cpu');
});

test('a damaged NVIDIA library is noticed', async (t) => {
  const m = machine(t);
  const { folder } = await m.ensure({ variant: 'gpu' });
  writeFileSync(join(folder, '../nvidia/cublas/lib/libcublas.so.12'), 'cub');
  m.log.length = 0;
  await m.ensure();
  t.deepEqual(m.log, ['look for python3 pip', 'fetch', 'unpack', 'companions']);
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
  const huge = { ...releases.cpu, diskBytes: 1e18 };
  await t.throwsAsync(m.ensure({ steps: { releases: { ...releases, cpu: huge } } }), {
    instanceOf: EngineError,
    message:
      /^the engine needs 1000000000\.0 GB in .*, and [\d.]+ GB are free; make room or set GALORE_CACHE_DIR/,
  });
});

test('a package folder that may not be written is an error that says who can', async (t) => {
  // The system's own folder takes no files from anyone, the superuser included.
  await t.throwsAsync(place('/sys', '/nowhere'), {
    instanceOf: EngineError,
    message:
      /^the engine cannot be linked into \/sys\/lib, which this user may not write; run `galore engine/,
  });
});
