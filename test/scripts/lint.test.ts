import test from 'ava';
import type { ExecutionContext } from 'ava';
import { spawnSync } from 'node:child_process';
import { copyFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '#scripts/setup';
import { emptyFolder, writeFiles } from './folder.ts';

/** What the linter says about a file at `path`: the names of the rules it breaks. */
function rulesBroken(t: ExecutionContext, path: string, text: string): string[] {
  const root = emptyFolder(t);
  copyFileSync(join(ROOT, '.oxlintrc.json'), join(root, '.oxlintrc.json'));
  symlinkSync(join(ROOT, 'node_modules'), join(root, 'node_modules'));
  writeFiles(root, { [path]: text });
  const program = join(ROOT, 'node_modules/oxlint/bin/oxlint');
  const { stdout } = spawnSync(process.execPath, [program, '--format=unix', path], {
    cwd: root,
    encoding: 'utf8',
  });
  return [...stdout.matchAll(/\[Error\/\w+\(([\w-]+)\)\]/g)].map((match) => match[1] ?? '').sort();
}

const IMPORTS = ['no-restricted-imports'];

test('the coordinator may not import a tensor library', (t) => {
  const text = "import '@tensorflow/tfjs-core';\n";
  t.deepEqual(rulesBroken(t, 'src/coordinator/server.ts', text), IMPORTS);
  t.deepEqual(rulesBroken(t, 'src/trainer/step.ts', text), []);
});

test('pure layers may not import Node, sockets, the engine or a shell', (t) => {
  const names = ['node:fs', 'ws', '@tensorflow/tfjs-node-gpu', '../../cli/train.ts'];
  const text = names.map((name) => `import '${name}';\n`).join('');
  for (const path of ['src/galore/a.ts', 'src/model/a.ts', 'src/protocol/a.ts', 'src/trainer/core/a.ts']) {
    t.deepEqual(
      rulesBroken(t, path, text),
      names.flatMap(() => IMPORTS),
      path,
    );
  }
});

test('a core may import its own files and lower layers, and not its shell', (t) => {
  const core = (names: readonly string[]) =>
    rulesBroken(t, 'src/coordinator/core/a.ts', names.map((name) => `import '${name}';\n`).join(''));
  t.deepEqual(core(['./state.ts', '../../errors.ts', '../../protocol/version.ts']), []);
  t.deepEqual(core(['../server.ts', '../store/journal.ts']), [...IMPORTS, ...IMPORTS]);
});

test('pure layers may not ask for the time, chance, timers or the process', (t) => {
  const text = 'export const a = [Date.now(), Math.random(), setTimeout, process.pid];\n';
  const expected = ['no-restricted-globals', 'no-restricted-globals', 'no-restricted-globals'];
  for (const path of ['src/galore/a.ts', 'src/model/a.ts', 'src/coordinator/core/a.ts']) {
    t.deepEqual(rulesBroken(t, path, text), [...expected, 'no-restricted-properties'], path);
  }
  t.deepEqual(rulesBroken(t, 'src/coordinator/server.ts', text), []);
});

test('the environment is read in src/config and src/cli only', (t) => {
  const text = "export const a = process.env['HOME'];\n";
  t.deepEqual(rulesBroken(t, 'src/trainer/engine/a.ts', text), ['no-process-env']);
  t.deepEqual(rulesBroken(t, 'src/config/a.ts', text), []);
  t.deepEqual(rulesBroken(t, 'src/cli/a.ts', text), []);
});

test('tests may wait by the clock in test/e2e only', (t) => {
  const text = 'setTimeout(() => undefined, 5);\n';
  t.deepEqual(rulesBroken(t, 'test/galore/a.test.ts', text), ['no-restricted-globals']);
  t.deepEqual(rulesBroken(t, 'test/e2e/a.test.ts', text), []);
});
