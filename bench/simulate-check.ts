/**
 * Whether `galore simulate` predicts what happens: `sudo node dist/bench/simulate-check.js [OUT] [-- options of galore
 * bench wan]` runs two trainers over shaped links, simulates the same run from its steps over fast links, and prints
 * the ratio of the two. Ends with 1 if they differ by more than 15 %. Without options: 60m, preset wan, 100 Mbit/s.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const MOST_DIFFERENCE = 0.15;
const DEFAULT = '--rate 100mbit --model 60m --batch 2 --seq 256 --preset wan --steps 8'.split(' ');
const GALORE = fileURLToPath(new URL('../../bin/galore.js', import.meta.url));

const separator = process.argv.indexOf('--');
const given = process.argv.slice(2, separator < 0 ? undefined : separator);
const out = given[0] ?? 'simulate-check';
const options = separator < 0 ? DEFAULT : process.argv.slice(separator + 1);
mkdirSync(out, { recursive: true });

const measured = galore(['bench', 'wan', ...options, '--json']);
const file = join(out, 'wan.json');
writeFileSync(file, measured);
// What it does not tell of itself.
const settings = options.flatMap((option, i) => (options[i - 1] === '--set' ? ['--set', option] : []));
const text = galore(['simulate', '--compare', file, ...settings, '--json']);
writeFileSync(join(out, 'simulated.json'), text);
process.stdout.write(galore(['simulate', '--compare', file, ...settings]));

const { comparison } = JSON.parse(text) as { comparison: { ratio: number } };
const isNear = Math.abs(comparison.ratio - 1) <= MOST_DIFFERENCE;
process.stdout.write(
  `predicted by measured: ${comparison.ratio.toFixed(3)}; ${isNear ? 'within' : 'beyond'} 15 %\n`,
);
process.exitCode = isNear ? 0 : 1;

function galore(args: readonly string[]): string {
  const { status, stdout } = spawnSync(process.execPath, [GALORE, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`galore ${args.join(' ')} ended with ${String(status)}`);
  return stdout;
}
