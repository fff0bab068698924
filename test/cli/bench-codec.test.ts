import test from 'ava';
import { Command } from 'commander';
import { registerBenchCodecCommand } from '../../src/cli/bench-codec.ts';
import type { CodecMeasurement } from '../../src/galore/codec/measure-codec.ts';
import { world } from './fakes.ts';

const SMALL = ['--numbers', '65537', '--repeats', '1'];

function bench(t: Parameters<typeof world>[0]) {
  const w = world(t);
  const program = new Command().exitOverride();
  registerBenchCodecCommand(program, w.context, (code) => t.is(code, 0));
  for (const command of program.commands) command.exitOverride().configureOutput({ writeErr: () => {} });
  return { ...w, run: (...args: string[]) => program.parseAsync(['codec', ...args], { from: 'user' }) };
}

test('bench codec --json has a rate, the bytes and the error of every codec', async (t) => {
  const { out, run } = bench(t);
  await run(...SMALL, '--json');
  const { numbers, codecs } = JSON.parse(out.text) as { numbers: number; codecs: CodecMeasurement[] };
  t.is(numbers, 65_537);
  t.deepEqual(
    codecs.map(({ codec, bytesPerNumber, relativeError }) => [
      codec,
      bytesPerNumber.toFixed(3),
      relativeError.toFixed(2),
    ]),
    [
      ['f32', '4.000', '0.00'],
      ['bf16', '2.000', '0.00'],
      ['int8', '1.016', '0.01'],
      ['int4', '0.531', '0.15'],
    ],
  );
  for (const { encodeGbPerSecond, decodeGbPerSecond, sumGbPerSecond } of codecs) {
    for (const rate of [encodeGbPerSecond, decodeGbPerSecond, sumGbPerSecond]) t.true(rate > 0.02, `${rate}`);
  }
});

test('bench codec prints a line for each codec', async (t) => {
  const { out, run } = bench(t);
  await run(...SMALL);
  t.regex(out.text, /^codec +bytes a number +encode GB\/s +decode GB\/s +sum GB\/s +error$/m);
  t.regex(out.text, /^int4 +0\.531 +[\d.]+ +[\d.]+ +[\d.]+ +15\.\d\d %$/m);
  await t.throwsAsync(run('--numbers', '0'), { message: /--numbers/ });
});
