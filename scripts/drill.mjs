/**
 * `npm run drill`: follows "The operator's drill" of docs/operations.md literally, in a folder of its own: all its
 * shell blocks as one script that ends at the first command that fails. Takes a minute on quiet cores.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { ROOT, setUp } from './setup.mjs';

const TIME_LIMIT_MS = 600_000;

/** The shell blocks of the section, in order. */
function drillOf(document) {
  const [, section] = document.split(/^## The operator's drill$/m);
  const [text] = section.split(/^## /m);
  return [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block);
}

async function main(folder) {
  await setUp();
  const blocks = drillOf(readFileSync(join(ROOT, 'docs/operations.md'), 'utf8'));
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  const galore = `#!/bin/sh\nexec '${process.execPath}' '${join(ROOT, 'bin/galore.js')}' "$@"\n`;
  writeFileSync(join(bin, 'galore'), galore, { mode: 0o755 });
  const script = join(folder, 'drill.sh');
  writeFileSync(script, ['set -euo pipefail', ...blocks, 'echo "the drill is done"', ''].join('\n'));
  const child = spawn('bash', ['-v', script], {
    cwd: folder,
    env: { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` },
    stdio: ['ignore', 'inherit', 'inherit'],
    detached: true, // so that what it has started can be ended with it
  });
  const end = () => {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // all of it has ended
    }
  };
  const timer = setTimeout(end, TIME_LIMIT_MS);
  const code = await new Promise((resolve) => child.on('exit', resolve));
  clearTimeout(timer);
  end();
  if (code === 0) return;
  for (const name of readdirSync(join(folder, 'drill')).filter((each) => each.endsWith('.log'))) {
    console.error(`--- ${name}\n${readFileSync(join(folder, 'drill', name), 'utf8')}`);
  }
  throw new Error('a command of the drill failed, or it took too long');
}

const folder = mkdtempSync(join(tmpdir(), 'galore-drill-'));
try {
  await main(folder);
} catch (error) {
  console.error(`drill: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
