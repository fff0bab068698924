import test from 'ava';
import type { ExecutionContext } from 'ava';
import { existsSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { build, isBuilt } from '#scripts/build';
import { ROOT, setUp } from '#scripts/setup';
import { emptyFolder, writeFiles } from './folder.ts';

/** A small project with the settings of this one. */
function project(t: ExecutionContext): string {
  const root = emptyFolder(t);
  for (const name of ['package.json', 'package-lock.json', 'tsconfig.json', 'scripts/build.mjs']) {
    writeFiles(root, { [name]: readFileSync(join(ROOT, name), 'utf8') });
  }
  symlinkSync(join(ROOT, 'node_modules'), join(root, 'node_modules'));
  writeFiles(root, {
    'proto/galore.proto': 'syntax = "proto3"; package galore.v1; message Ping { uint32 count = 1; }',
    'src/one.ts': 'export const one: number = 1;\n',
  });
  return root;
}

test('a build makes code of protocol and sources, and is up to date until one of them changes', async (t) => {
  const root = project(t);
  t.false(isBuilt(root));
  await Promise.all([setUp({ root, engine: false }), setUp({ root, engine: false })]); // two at once
  t.true(isBuilt(root));
  t.true(existsSync(join(root, 'proto/generated/messages.d.ts')));
  t.regex(readFileSync(join(root, 'dist/src/one.js'), 'utf8'), /one = 1/);
  const map = JSON.parse(readFileSync(join(root, 'dist/src/one.js.map'), 'utf8')) as { sources: string[] };
  t.deepEqual(map.sources, ['../../src/one.ts']);

  writeFiles(root, { 'src/two.ts': 'export const two: number = 2;\n' });
  t.false(isBuilt(root));
  rmSync(join(root, 'src/one.ts'));
  build({ root });
  t.deepEqual(
    readdirSync(join(root, 'dist/src')).filter((name) => name.endsWith('.js')),
    ['two.js'],
  );

  rmSync(join(root, 'proto/generated/messages.js'));
  t.false(isBuilt(root), 'a deleted result is noticed');
});

test('a build that fails leaves the one before it, and a killed one leaves nothing for long', (t) => {
  const root = project(t);
  build({ root });
  writeFiles(root, { 'src/one.ts': 'export const one: never = 1;\n', 'dist-99999/half.js': '' });
  t.throws(() => build({ root }), { message: /TypeScript sources could not be built/ });
  t.regex(readFileSync(join(root, 'dist/src/one.js'), 'utf8'), /one = 1/);
  t.false(isBuilt(root));
  t.deepEqual(
    readdirSync(root).filter((name) => name.startsWith('dist')),
    ['dist'],
  );
});
