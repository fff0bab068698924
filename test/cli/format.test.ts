import test from 'ava';
import {
  fitToColumns,
  formatBytes,
  formatCount,
  formatDuration,
  formatLoss,
  formatPerplexity,
} from '../../src/cli/format.ts';

test('bytes have the largest unit that keeps three digits', (t) => {
  const cases: [number, string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [1_234_567, '1.2 MB'],
    [99_940_000, '99.9 MB'],
    [99_960_000, '100 MB'],
    [999_499_999, '999 MB'],
    [999_500_000, '1.0 GB'],
    [3_200_000_000_000_000, '3200 TB'],
  ];
  for (const [bytes, text] of cases) t.is(formatBytes(bytes), text);
});

test('durations have two parts at most', (t) => {
  const cases: [number, string][] = [
    [0, '0s'],
    [59.4, '59s'],
    [59.6, '1m00s'],
    [80, '1m20s'],
    [3_599.4, '59m59s'],
    [3_600, '1h00m'],
    [86_399, '23h59m'],
    [100 * 3_600, '4d04h'],
    [Infinity, '?'],
    [-1, '0s'],
  ];
  for (const [seconds, text] of cases) t.is(formatDuration(seconds), text);
});

test('counts are short and never pretend to precision', (t) => {
  const cases: [number, string][] = [
    [0, '0'],
    [0.25, '0.25'],
    [3, '3'],
    [3.14, '3.1'],
    [9.96, '10'],
    [812.4, '812'],
    [9_999, '9999'],
    [12_345, '12.3k'],
    [999_960, '1.0M'],
    [NaN, '?'],
  ];
  for (const [value, text] of cases) t.is(formatCount(value), text);
});

test('losses and perplexities that are no numbers say so', (t) => {
  t.is(formatLoss(5.126), '5.13');
  t.is(formatLoss(NaN), 'NaN');
  t.is(formatPerplexity(4.567), '4.57');
  t.is(formatPerplexity(45.67), '45.7');
  t.is(formatPerplexity(210.4), '210');
  t.is(formatPerplexity(12_345_678), '1.2e7');
  t.is(formatPerplexity(Infinity), 'Infinity');
});

test('a line is cut to the columns there are, with an ellipsis', (t) => {
  t.is(fitToColumns('12345', 5), '12345');
  t.is(fitToColumns('123456', 5), '1234…');
  t.is(fitToColumns('😀😀😀', 2), '😀…');
  t.is(fitToColumns('abc', 0), '');
});
