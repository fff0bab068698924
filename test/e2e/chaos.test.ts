/** `galore chaos` as a user calls it: real processes that are killed and stopped, and links that are cut. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { galore, temporaryFolder } from '../helpers/galore.ts';

/** The lines of `--json`: one for each run and one for all. */
function jsonLines(output: string): Record<string, unknown>[] {
  return output
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test.serial('a run that is killed, stopped and cut loses nothing', async (t) => {
  const folder = temporaryFolder(t);
  const args = ['--seed', '3', '--kills', '4', '--steps', '60', '--dir', folder, '--json'];
  const { code, output } = await galore(t, 'chaos', ...args);
  t.is(code, 0, output);
  const [run, totals] = jsonLines(output);
  const sound = { lostSteps: 0, duplicateSteps: 0, coverageExact: true, weightsEqual: true, faultsFired: 4 };
  t.like(run, { ...sound, seed: 3, hung: false, steps: 60 });
  t.like(totals, { ...sound, runs: 1, soundRuns: 1, hangs: 0 });
  t.is(typeof totals!['maxRecoverySeconds'], 'number');
  t.deepEqual(readdirSync(folder).sort(), ['seed-3', 'undisturbed']);
  t.true(readdirSync(join(folder, 'seed-3', 'run')).includes('metrics.jsonl'));
});

test.serial(
  'a run that cannot be carried out at all is told apart from one that loses something',
  async (t) => {
    const folder = temporaryFolder(t);
    const args = ['--steps', '5', '--dir', folder, '--set', 'trainer.device=gpu:7'];
    const { code, output } = await galore(t, 'chaos', ...args);
    t.not(code, 0);
    t.regex(output, /gpu:7/);
  },
);
