import test from 'ava';
import { Command } from 'commander';
import { registerBenchAggregateCommand } from '../../src/cli/bench-aggregate.ts';
import type { AggregateCosts } from '../../src/galore/aggregate/measure-aggregate.ts';
import { AGGREGATION_RULES } from '../../src/galore/aggregate/tolerance.ts';
import { world } from './fakes.ts';

const SMALL = ['--payload-bytes', '40000', '--repeats', '1'];

function bench(t: Parameters<typeof world>[0]) {
  const w = world(t);
  const program = new Command().exitOverride();
  registerBenchAggregateCommand(program, w.context, (code) => t.is(code, 0));
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  return { ...w, run: (...args: string[]) => program.parseAsync(['aggregate', ...args], { from: 'user' }) };
}

test('bench aggregate --json has the cost of every rule, and of decoding alone', async (t) => {
  const { out, run } = bench(t);
  await run(...SMALL, '--trainers', '7', '--json');
  const { rules, decodeMilliseconds, byzantine, numbers } = JSON.parse(out.text) as AggregateCosts & {
    byzantine: number;
    numbers: number;
  };
  t.is(byzantine, 2);
  t.is(numbers, Math.round(40_000 / (260 / 256)));
  t.deepEqual(
    rules.map(({ rule }) => rule),
    [...AGGREGATION_RULES],
  );
  t.true(
    [decodeMilliseconds, ...rules.map(({ milliseconds }) => milliseconds)].every((ms) => ms >= 0 && ms < 1e4),
  );
});

test('bench aggregate prints a line for each rule', async (t) => {
  const { out, run } = bench(t);
  await run(...SMALL, '--codec', 'bf16');
  t.regex(out.text, /^8 contributions of 40000 bytes \(20000 numbers in bf16\), f = 2, on one core$/m);
  for (const rule of ['decode', ...AGGREGATION_RULES])
    t.regex(out.text, new RegExp(`^${rule} +[\\d.]+ ms$`, 'm'));
  await t.throwsAsync(run('--trainers', '2'), { message: /--trainers/ });
});
