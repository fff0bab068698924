import test from 'ava';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { ROOT } from '#scripts/setup';
import { emptyFolder, writeFiles } from '../scripts/folder.ts';

test('bench/gpu.sh says at once that there is no GPU, and ends with 2', (t) => {
  const folder = emptyFolder(t);
  const run = (answer: string, ...args: string[]) => {
    writeFiles(folder, { 'nvidia-smi': `#!/bin/sh\n${answer}\n` });
    spawnSync('chmod', ['+x', join(folder, 'nvidia-smi')]);
    const PATH = `${folder}:${process.env['PATH'] ?? ''}`;
    return spawnSync(join(ROOT, 'bench/gpu.sh'), args, { encoding: 'utf8', env: { ...process.env, PATH } });
  };
  const none = run('echo No devices were found');
  t.is(none.status, 2);
  t.is(none.stdout, 'no GPU here: nvidia-smi lists none\n');
  const broken = run('echo Driver/library version mismatch; exit 18');
  t.is(broken.status, 2);
  t.is(broken.stdout, 'no GPU here: nvidia-smi says: Driver/library version mismatch\n');
  const misused = run('exit 1', '--wrok', folder);
  t.is(misused.status, 2);
  t.is(misused.stderr, 'gpu.sh: --wrok is no option; --help shows them\n');
});
