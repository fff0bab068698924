/**
 * `npm test`: the set-up, lint and every test. Prints only failures, and `N passed, N failed` as the last line.
 *
 *   npm test -- test/galore             only these files or folders, without lint
 *   npm test -- --match='*refresh*'     flags of AVA, written with "="
 *   npm test -- --fuzz=60               everything, and the fuzzers for so many seconds
 *   npm test -- --update                rewrites the transcripts instead of comparing them
 */
import { spawnSync } from 'node:child_process';
import { join, relative, resolve } from 'node:path';
import { runAva } from './ava.mjs';
import { ROOT, setUp } from './setup.mjs';

const LINTERS = [
  { name: 'oxlint', program: 'oxlint/bin/oxlint', args: ['--type-aware', '--deny-warnings'] },
  { name: 'prettier', program: 'prettier/bin/prettier.cjs', args: ['--check', '--log-level=warn', '.'] },
];

/** The compiled counterpart of a test file or folder, as AVA wants it. */
export function compiledPath(path, root = ROOT) {
  const local = relative(root, resolve(path)).replace(/\.ts$/, '.js');
  return local.startsWith('dist') ? local : join('dist', local);
}

/** Runs a linter. */
function lint({ name, program, args }) {
  return check(name, [join(ROOT, 'node_modules', program), ...args]);
}

/** Fuzzes every decoder, with other inputs each day. */
function fuzz(seconds) {
  const seed = Math.floor(Date.now() / 86_400_000);
  return check('fuzz', ['dist/test/fuzz/main.js', `--seconds=${seconds}`, `--seed=${seed}`]);
}

/** Runs a program; its output is shown only if it finds something. */
function check(name, command) {
  const result = spawnSync(process.execPath, command, { cwd: ROOT, encoding: 'utf8' });
  if (result.status === 0) return true;
  console.log(`✘ ${name}\n${result.stdout}${result.stderr}`);
  return false;
}

async function main(args) {
  const isUpdate = args.includes('--update');
  const fuzzSeconds = args.find((arg) => arg.startsWith('--fuzz='))?.slice('--fuzz='.length);
  const flags = args.filter((arg) => arg.startsWith('-') && !/^--(update$|fuzz=)/.test(arg));
  const paths = args.filter((arg) => !arg.startsWith('-')).map((path) => compiledPath(path));
  await setUp();
  const linted = paths.length > 0 || flags.length > 0 || isUpdate ? [] : LINTERS.map(lint);
  if (fuzzSeconds !== undefined) linted.push(fuzz(fuzzSeconds));
  const tests = await runAva(ROOT, [...flags, ...paths], isUpdate ? { UPDATE_TRANSCRIPTS: '1' } : {});
  return {
    passed: tests.passed + linted.filter((isClean) => isClean).length,
    failed: tests.failed + linted.filter((isClean) => !isClean).length,
  };
}

let counts = { passed: 0, failed: 1 };
try {
  counts = await main(process.argv.slice(2));
} catch (error) {
  console.log(`test: ${error.message}`);
}
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 ? 1 : 0;
