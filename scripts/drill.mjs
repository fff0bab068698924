/**
 * `npm run drill`: follows "The operator's drill" of docs/operations.md literally, in a folder of its own: all its
 * shell blocks as one script that ends at the first command that fails. Takes a minute on quiet cores.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { ROOT, setUp } from './setup.mjs';

const TIME_LIMIT_MS = 600_000;

/** The shell blocks of the section, in order; of its part on standbys too if that can be followed here. */
function drillOf(document, hasStandbys) {
  const [, section] = document.split(/^## The operator's drill$/m);
  const [text] = section.split(/^## /m);
  const [alone, standbys] = text.split(/^### .*standby$/m);
  return [...(hasStandbys ? alone + standbys : alone).matchAll(/^```sh\n(.*?)^```$/gms)].map(
    ([, block]) => block,
  );
}

/** Whether NATS is installed and this version knows of standbys. */
function hasStandbys() {
  if (spawnSync('nats-server', ['--version']).error) return false;
  const help = spawnSync(process.execPath, [join(ROOT, 'bin/galore.js'), 'coordinator', '--help']);
  return String(help.stdout).includes('--standby');
}

async function main(folder) {
  await setUp();
  const isWhole = hasStandbys();
  const blocks = drillOf(readFileSync(join(ROOT, 'docs/operations.md'), 'utf8'), isWhole);
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  const galore = `#!/bin/sh\nexec '${process.execPath}' '${join(ROOT, 'bin/galore.js')}' "$@"\n`;
  writeFileSync(join(bin, 'galore'), galore, { mode: 0o755 });
  const script = join(folder, 'drill.sh');
  writeFileSync(
    script,
    [
      'set -euo pipefail',
      ...blocks,
      `echo "the drill is done${isWhole ? '' : ', without standbys'}"`,
      '',
    ].join('\n'),
  );
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
  const logs = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    /^(drill|standby)\/[^/]+\.log$/.test(name),
  );
  for (const name of logs) console.error(`--- ${name}\n${readFileSync(join(folder, name), 'utf8')}`);
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
