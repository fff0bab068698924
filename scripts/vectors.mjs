/** `npm run vectors -- DIR`: runs the tests that compare with reference vectors on the files in DIR. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { runAva } from './ava.mjs';
import { ROOT, setUp } from './setup.mjs';

let counts = { passed: 0, failed: 1 };
try {
  const folder = process.argv[2];
  if (!folder) throw new Error('name the folder that holds the vectors: npm run vectors -- DIR');
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) throw new Error(`no folder at ${folder}`);
  await setUp();
  counts = await runAva(ROOT, ['dist/test/vectors/**/*.test.js'], { GALORE_VECTORS: resolve(folder) });
} catch (error) {
  console.log(`vectors: ${error.message}`);
}
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 ? 1 : 0;
