import { appendFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { copyLines, restoreLines } from '../../../src/coordinator/store/line-copies.ts';
import { MetricsLog } from '../../../src/coordinator/store/metrics-log.ts';
import { temporaryDir } from '../../temporary-dir.ts';

const lines = (...steps: number[]): string =>
  steps.map((step) => `${JSON.stringify({ step, loss: 1 / step })}\n`).join('');

/** A log in a new folder with these lines. */
async function logOf(t: ExecutionContext, text: string): Promise<MetricsLog> {
  const path = join(temporaryDir(t), 'evaluations.jsonl');
  await writeFile(path, text);
  const log = await MetricsLog.open(path, Infinity);
  t.teardown(() => log.close());
  return log;
}

test('lines come back from a copy, behind those that are there and up to the step of the run', async (t) => {
  const log = await logOf(t, lines(10, 20, 30, 40));
  const folder = temporaryDir(t);
  t.deepEqual(await copyLines([log], folder), ['evaluations.jsonl.gz']);
  const cases = [
    { had: lines(), step: 99, has: lines(10, 20, 30, 40) },
    { had: lines(10, 15), step: 30, has: lines(10, 15, 20, 30) },
    { had: lines(50), step: 99, has: lines(50) },
  ];
  for (const { had, step, has } of cases) {
    const other = await logOf(t, had);
    await restoreLines(other, folder, step);
    t.is(await readFile(other.path, 'utf8'), has);
  }
});

test('half a line that is just being written is left out of what comes back', async (t) => {
  const log = await logOf(t, lines(1, 2));
  await appendFile(log.path, '{"step":3,"lo');
  const folder = temporaryDir(t);
  await copyLines([log], folder);
  const other = await logOf(t, '');
  await restoreLines(other, folder, 9);
  t.is(await readFile(other.path, 'utf8'), lines(1, 2));
});

test('many lines come back in pieces, none of them cut', async (t) => {
  const steps = Array.from({ length: 100_000 }, (_, i) => i + 1);
  const log = await logOf(t, lines(...steps));
  const folder = temporaryDir(t);
  await copyLines([log], folder);
  const other = await logOf(t, '');
  await restoreLines(other, folder, 90_000);
  t.is(await readFile(other.path, 'utf8'), lines(...steps.slice(0, 90_000)));
});

test('without a copy nothing comes back, and a log that is gone leaves none', async (t) => {
  const log = await logOf(t, lines(1));
  const folder = temporaryDir(t);
  await restoreLines(log, folder, 9);
  t.is(log.lastStep, 1);
  const gone = { path: join(folder, 'metrics.jsonl') } as MetricsLog;
  await mkdir(join(folder, 'to'));
  t.deepEqual(await copyLines([gone], join(folder, 'to')), []);
});
