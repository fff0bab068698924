import test from 'ava';
import { copyFileSync, mkdirSync, readFileSync, realpathSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ADDON_FILES } from '../../../src/trainer/engine/compile.ts';
import { tfjsPackageDir } from '../../../src/trainer/engine/tfjs-package.ts';
import { loadEngine } from '../../../src/trainer/engine/load.ts';
import { placeOf } from '../../../src/trainer/engine/place.ts';
import { LIBRARY_FILES } from '../../../src/trainer/engine/release.ts';
import { emptyFolder } from '../../scripts/folder.ts';

test('a process loads the build of its device, whichever is linked into the package', async (t) => {
  const linked = placeOf(tfjsPackageDir());
  const folder = join(emptyFolder(t), 'napi-v8');
  mkdirSync(folder);
  for (const name of ADDON_FILES) copyFileSync(join(linked, name), join(folder, name));
  for (const name of LIBRARY_FILES) symlinkSync(realpathSync(join(linked, name)), join(folder, name));
  const { tf } = await loadEngine({
    precision: 'f32',
    threads: 1,
    device: { name: 'cpu', folder, gpu: null },
  });
  t.is(tf.scalar(2).mul(3).dataSync()[0], 6);
  const loaded = readFileSync('/proc/self/maps', 'utf8');
  for (const name of ADDON_FILES) {
    t.true(loaded.includes(join(folder, name)), name);
    t.false(loaded.includes(join(realpathSync(linked), name)), name);
  }
  t.is(
    process.env['CUDA_VISIBLE_DEVICES'],
    '-1',
    'no GPU is shown to a process that computes on the processor',
  );
});
