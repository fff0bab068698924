import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { FAULT_TYPES } from '../../src/simulation/faults.ts';
import { ROOT } from '../helpers/galore.ts';

function schedules(...args: readonly string[]): { readonly status: number | null; readonly output: string } {
  const program = join(ROOT, 'dist', 'bench', 'schedules.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' });
  return { status, output: stdout + stderr };
}

test('schedules are played from a seed on, and every kind of fault is counted', (t) => {
  const { status, output } = schedules('--count', '8', '--seed', '3');
  t.is(status, 0, output);
  for (const type of FAULT_TYPES) t.regex(output, new RegExp(`^${type} +\\d+$`, 'm'));
  t.regex(output, /^8 schedules from seed 3, \d+ committed steps, \d+ starts of the coordinator, /m);
  t.regex(output, /^every rule holds$/m);
});

test('a number of schedules that cannot be is refused', (t) => {
  t.like(schedules('--count', 'many'), {
    status: 2,
    output: '--count is many; allowed: a whole number from 1\n',
  });
});
