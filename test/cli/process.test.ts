/** The command as a process: what only a real one shows. */
import test from 'ava';
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const COMMAND = fileURLToPath(new URL('../../../bin/galore.js', import.meta.url));

function run(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8' });
}

test('help goes to standard output and names the commands of all parts', (t) => {
  const { status, stdout, stderr } = run('--help');
  t.is(status, 0);
  t.is(stderr, '');
  for (const name of ['train', 'coordinator', 'trainer', 'resume', 'eval', 'generate', 'inspect', 'engine']) {
    t.regex(stdout, new RegExp(`^ {2}${name} `, 'm'));
  }
});

test('bad usage and bad input are code 2, one message on standard error, and no stack', (t) => {
  for (const args of [
    ['train'],
    ['trian', 'x'],
    ['train', 'none.yaml'],
    ['resume', '/'],
    ['trainer', 'http://x'],
  ]) {
    const { status, stdout, stderr } = run(...args);
    t.is(status, 2, args.join(' '));
    t.is(stdout, '');
    t.regex(stderr, /^error: /);
    t.notRegex(stderr, /\n {4}at /);
  }
});

test('--debug shows where an error was raised', (t) => {
  const { status, stderr } = run('train', 'none.yaml', '--debug');
  t.is(status, 2);
  t.regex(stderr, /^error: ConfigError: cannot read none\.yaml: no such file\n {4}at /);
});
