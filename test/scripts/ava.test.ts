import test from 'ava';
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { runAva } from '#scripts/ava';
import { ROOT } from '#scripts/setup';
import { emptyFolder, writeFiles } from './folder.ts';

test.serial('a test that never ends is named, with its file', async (t) => {
  const root = emptyFolder(t);
  symlinkSync(join(ROOT, 'node_modules'), join(root, 'node_modules'));
  writeFiles(root, {
    'package.json': '{"type": "module"}',
    'ava.config.js': `export default { files: ['*.test.js'], workerThreads: false, timeout: '2s' };\n`,
    'stuck.test.js':
      `import test from 'ava';\n` +
      `test('ends', (t) => t.pass());\n` +
      `test('never ends', () => new Promise(() => setInterval(() => {}, 1000)));\n`,
  });
  const printed: string[] = [];
  const log = console.log;
  t.teardown(() => (console.log = log));
  console.log = (text: string) => printed.push(text);
  const counts = await runAva(root, []);
  t.deepEqual(counts, { passed: 1, failed: 1 });
  t.regex(
    printed.join('\n'),
    /✘ .*stuck\.test\.js: never ends\n.*still running when no test had finished for 2 s/s,
  );
});
