import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { MetricsLog, readMetrics } from '../../../src/coordinator/store/metrics-log.ts';
import { temporaryDir } from '../../temporary-dir.ts';

const line = (step: number): string => `${JSON.stringify({ step, loss: 1 / step })}\n`;
const lines = (...steps: number[]): string => steps.map(line).join('');

test('each line is a JSON object, and reading gives them back', async (t) => {
  const path = join(temporaryDir(t), 'metrics.jsonl');
  const log = await MetricsLog.open(path, 0);
  await Promise.all([1, 2, 3].map((step) => log.append({ step, loss: 1 / step })));
  t.is(log.lastStep, 3);
  await log.close();
  t.is(await readFile(path, 'utf8'), lines(1, 2, 3));
  const read: unknown[] = [];
  for await (const found of readMetrics(path)) read.push(found);
  t.deepEqual(read[1], { step: 2, loss: 0.5 });
});

test('on resume the lines of steps that will be made again are cut off', async (t) => {
  const path = join(temporaryDir(t), 'metrics.jsonl');
  await writeFile(path, lines(1, 2, 3, 4, 5));
  const log = await MetricsLog.open(path, 3);
  t.is(log.lastStep, 3);
  await log.append({ step: 4, loss: 0.25 });
  await log.close();
  t.is(await readFile(path, 'utf8'), lines(1, 2, 3, 4));
});

test('half a line at the end is cut off at any length', async (t) => {
  const path = join(temporaryDir(t), 'metrics.jsonl');
  const whole = lines(1, 2);
  for (let length = 0; length <= whole.length; length++) {
    await writeFile(path, whole.slice(0, length));
    const log = await MetricsLog.open(path, 9);
    await log.close();
    const expected = length === whole.length ? whole : length >= line(1).length ? line(1) : '';
    t.is(await readFile(path, 'utf8'), expected);
  }
});

test('lines that are no metrics are passed over between good ones and cut off at the end', async (t) => {
  const path = join(temporaryDir(t), 'metrics.jsonl');
  await writeFile(path, `${line(1)}noise\n[]\n${line(2)}null\n{"loss":1}\n\0\0\0\n`);
  const log = await MetricsLog.open(path, 5);
  t.is(log.lastStep, 2);
  await log.close();
  t.is(await readFile(path, 'utf8'), `${line(1)}noise\n[]\n${line(2)}`);
});

test('lines that cross the pieces a file is read in, and one that is far too long', async (t) => {
  const path = join(temporaryDir(t), 'metrics.jsonl');
  const steps = Array.from({ length: 20_000 }, (_, i) => i + 1);
  const text = `${lines(...steps.slice(0, 10_000))}${'x'.repeat(3_000_000)}\n${lines(...steps.slice(10_000))}`;
  await writeFile(path, text);
  const read: number[] = [];
  for await (const { step } of readMetrics(path)) read.push(step);
  t.deepEqual(read, steps);
  const log = await MetricsLog.open(path, 15_000);
  await log.close();
  t.is(await readFile(path, 'utf8'), text.slice(0, text.indexOf(line(15_001))));
});

test('a missing file has no lines', async (t) => {
  for await (const found of readMetrics(join(temporaryDir(t), 'none'))) t.fail(JSON.stringify(found));
  t.pass();
});
