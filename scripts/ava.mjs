/** Runs AVA on compiled tests and prints only what failed. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { tapReader } from './tap.mjs';

const SHOWN_OUTPUT_CHARACTERS = 20_000;
const TIMEOUT_REPORT = new URL('ava-timeout.mjs', import.meta.url).href;

/** The counts of the run; a run that breaks off counts as one more failure. */
export async function runAva(root, args, env = {}) {
  const child = spawn(
    process.execPath,
    ['--import', TIMEOUT_REPORT, join(root, 'node_modules/ava/entrypoints/cli.mjs'), '--tap', ...args],
    {
      cwd: root,
      env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const { run, read, end } = tapReader();
  let output = ''; // what the tests and AVA itself wrote, shown only beside a failure
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output = (output + text).slice(-SHOWN_OUTPUT_CHARACTERS);
  });
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => {
    read(line);
    showCount(run);
  });
  const [code] = await Promise.all([
    new Promise((resolve, reject) => child.on('error', reject).on('close', resolve)),
    new Promise((resolve) => lines.on('close', resolve)),
  ]);
  end();
  clearCount();
  if ((code !== 0 || !run.isComplete) && run.failed === 0) {
    run.failed = 1;
    const isEmpty = run.isComplete && run.passed + run.notes.length === 0;
    run.failures.push(isEmpty ? 'no test was found' : `the test run ended early, with exit code ${code}`);
  }
  for (const title of run.notes) console.log(`not run: ${title}`);
  for (const failure of run.failures) console.log(`\n✘ ${failure}`);
  if (run.failed > 0 && output.trim()) console.log(`\nOutput of the tests:\n${output.trimEnd()}`);
  return { passed: run.passed, failed: run.failed };
}

function showCount(run) {
  if (process.stderr.isTTY) process.stderr.write(`\r${run.passed} passed, ${run.failed} failed so far `);
}

function clearCount() {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
}
