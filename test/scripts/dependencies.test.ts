import test from 'ava';
import type { ExecutionContext } from 'ava';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { areDependenciesInstalled, installDependencies, isLinked } from '#scripts/dependencies';
import { startOf } from '#scripts/lock';
import { ROOT, unsuitableNode } from '#scripts/setup';
import { emptyFolder, writeFiles } from './folder.ts';

const STAMP = 'node_modules/.galore-swarm-stamp';

interface Entry {
  readonly version: string;
  readonly optional?: boolean;
}

function lockfile(packages: Readonly<Record<string, Entry>>): string {
  return JSON.stringify({ packages: { '': {}, ...packages } });
}

/** A checkout that wants two packages, one of them for another platform, and has what npm left there. */
function checkout(t: ExecutionContext, installed: Readonly<Record<string, Entry>>): string {
  const root = emptyFolder(t);
  writeFiles(root, {
    'package-lock.json': lockfile({
      'node_modules/ws': { version: '8.0.0' },
      'node_modules/for-a-mac': { version: '1.0.0', optional: true },
    }),
    'node_modules/.package-lock.json': lockfile(installed),
    'node_modules/ws/package.json': '{}',
  });
  return root;
}

test('without node_modules the dependencies are not installed', (t) => {
  const root = emptyFolder(t);
  writeFiles(root, { 'package-lock.json': lockfile({}) });
  t.false(areDependenciesInstalled(root));
});

test('what npm installed by hand counts, and gets a stamp', (t) => {
  const root = checkout(t, { 'node_modules/ws': { version: '8.0.0' } });
  t.true(areDependenciesInstalled(root));
  t.true(existsSync(join(root, STAMP)));
  rmSync(join(root, 'node_modules/.package-lock.json'));
  t.true(areDependenciesInstalled(root), 'the stamp alone is enough');
});

test('another package-lock.json makes the stamp void', (t) => {
  const root = checkout(t, { 'node_modules/ws': { version: '8.0.0' } });
  t.true(areDependenciesInstalled(root));
  writeFiles(root, { 'package-lock.json': lockfile({ 'node_modules/ws': { version: '8.0.1' } }) });
  t.false(areDependenciesInstalled(root));
});

test('another version, a missing package and one too many are not what is wanted', (t) => {
  const ws = { 'node_modules/ws': { version: '8.0.0' } };
  t.false(areDependenciesInstalled(checkout(t, { 'node_modules/ws': { version: '7.0.0' } })));
  t.false(areDependenciesInstalled(checkout(t, {})));
  t.false(areDependenciesInstalled(checkout(t, { ...ws, 'node_modules/extra': { version: '1.0.0' } })));
  const root = checkout(t, ws);
  rmSync(join(root, 'node_modules/ws'), { recursive: true });
  t.false(areDependenciesInstalled(root));
});

test('a node_modules that is a link belongs to another checkout and is used as it is', (t) => {
  const root = emptyFolder(t);
  mkdirSync(join(root, 'elsewhere'));
  symlinkSync(join(root, 'elsewhere'), join(root, 'node_modules'));
  writeFiles(root, { 'package-lock.json': lockfile({ 'node_modules/ws': { version: '8.0.0' } }) });
  t.true(isLinked(root));
  t.true(areDependenciesInstalled(root));
  t.false(existsSync(join(root, STAMP)));
});

test('an npm that outlived its set-up is waited for, and its result used', async (t) => {
  const root = checkout(t, {});
  const npm = spawn(process.execPath, ['-e', 'process.stdin.resume()'], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  t.teardown(() => npm.kill('SIGKILL'));
  await once(npm, 'spawn');
  const pid = npm.pid ?? 0;
  writeFiles(root, { '.setup/npm': `${pid} ${startOf(pid)}` });
  const told: string[] = [];
  const onWait = (holder: string) => {
    told.push(holder);
    const installed = lockfile({ 'node_modules/ws': { version: '8.0.0' } });
    writeFiles(root, { 'node_modules/.package-lock.json': installed });
    npm.kill('SIGKILL');
  };
  await installDependencies(root, { onWait, pollMs: 1 });
  t.deepEqual(told, ['npm ci of a set-up that was killed']);
  t.true(existsSync(join(root, STAMP)));
});

test('a Node that is too old is named in one sentence with the commands that install a newer one', (t) => {
  t.is(unsuitableNode(ROOT, '20.19.0'), undefined);
  t.is(unsuitableNode(ROOT, '22.1.0'), undefined);
  const sentence = unsuitableNode(ROOT, '20.18.3') ?? '';
  t.regex(sentence, /^Node 20\.19 or newer is needed and this is 20\.18\.3; /);
  t.regex(sentence, /apt-get install.*\(Debian, Ubuntu\).*dnf install.*\(Fedora\).*brew install.*\(macOS\)$/);
  t.truthy(unsuitableNode(ROOT, '18.20.0'));
});
