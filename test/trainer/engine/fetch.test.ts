import test from 'ava';
import type { ExecutionContext } from 'ava';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { EngineError } from '../../../src/errors.ts';
import { fetchWheel, unpackWheel } from '../../../src/trainer/engine/fetch.ts';
import { sha256OfFile } from '../../../src/trainer/engine/manifest.ts';
import type { Wheel } from '../../../src/trainer/engine/release.ts';
import { emptyFolder, writeFiles } from '../../scripts/folder.ts';

const FILE = 'tiny-1.0-cp311-cp311-manylinux_2_27_x86_64.whl';

/** A real wheel of a few bytes, which pip is asked to fetch from the disk: no network is needed. */
async function tinyWheel(t: ExecutionContext): Promise<Wheel> {
  const folder = emptyFolder(t);
  writeFiles(folder, {
    'content/tensorflow/libtensorflow_cc.so.2': 'cc',
    'content/tensorflow/libtensorflow_framework.so.2': 'framework',
    'content/tensorflow/include/tensorflow/c/c_api.h': '// header',
    'content/tensorflow/python/ops.py': 'unwanted',
    'content/tiny-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
    'content/tiny-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_27_x86_64\n',
    'content/tiny-1.0.dist-info/RECORD': '',
  });
  const path = join(folder, FILE);
  const zip = 'import shutil, sys; shutil.make_archive(sys.argv[1], "zip", sys.argv[2])';
  const { status } = spawnSync('python3', ['-c', zip, path, join(folder, 'content')]);
  t.is(status, 0);
  spawnSync('mv', [`${path}.zip`, path]);
  return {
    requirement: `tiny @ file://${path}`,
    file: FILE,
    bytes: statSync(path).size,
    sha256: await sha256OfFile(path),
  };
}

test('pip fetches a wheel for the platform of the engine, whatever the Python on the machine', async (t) => {
  const folder = emptyFolder(t);
  const wheel = await tinyWheel(t);
  const shares: number[] = [];
  const path = await fetchWheel(wheel, folder, (share) => shares.push(share));
  t.is(path, join(folder, FILE));
  t.is(await sha256OfFile(path), wheel.sha256);
  t.is(shares.at(-1), 1);
});

test('a wheel with another SHA-256 is refused with both sums, and not kept', async (t) => {
  const folder = emptyFolder(t);
  const wheel = await tinyWheel(t);
  const expected = '0'.repeat(64);
  const error = await t.throwsAsync(
    fetchWheel({ ...wheel, sha256: expected }, folder, () => undefined),
    { instanceOf: EngineError },
  );
  t.true(error.message.endsWith(`its SHA-256 is ${wheel.sha256} and has to be ${expected}`), error.message);
  t.deepEqual(readdirSync(folder, { recursive: true }), ['incoming']);
});

test('a wheel that lies there complete from an earlier attempt is not fetched again', async (t) => {
  const wheel = await tinyWheel(t);
  const folder = emptyFolder(t);
  await fetchWheel(wheel, folder, () => undefined);
  const elsewhere = { ...wheel, requirement: 'tiny @ file:///nowhere.whl' };
  t.is(await fetchWheel(elsewhere, folder, () => undefined), join(folder, FILE));
});

test('when pip fails, its own reason is the message', async (t) => {
  const folder = emptyFolder(t);
  const wheel = { requirement: 'tiny @ file:///nowhere/tiny-1.0.whl', file: FILE, bytes: 1, sha256: '' };
  const error = await t.throwsAsync(
    fetchWheel(wheel, folder, () => undefined),
    { instanceOf: EngineError },
  );
  t.regex(error.message, /^pip could not fetch tiny @ file:\/\/\/nowhere\/tiny-1\.0\.whl: [^\n]+$/);
});

test('only the libraries and the headers are unpacked', async (t) => {
  const wheel = await tinyWheel(t);
  const folder = emptyFolder(t);
  const target = join(folder, 'library');
  mkdirSync(target);
  await unpackWheel(await fetchWheel(wheel, folder, () => undefined), target);
  t.is(readFileSync(join(target, 'tensorflow/libtensorflow_cc.so.2'), 'utf8'), 'cc');
  t.is(readFileSync(join(target, 'tensorflow/include/tensorflow/c/c_api.h'), 'utf8'), '// header');
  t.deepEqual(readdirSync(target), ['tensorflow']);
  t.false(existsSync(join(target, 'tensorflow/python')));
});
