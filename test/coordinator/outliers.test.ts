/** Norms against the quorum's median, in a real coordinator whose trainers are sockets. */
import test from 'ava';
import { SILENT_LOGGER, type Logger } from '../../src/log.ts';
import { finish, joinRun, next, startRun } from '../support/raw-run.ts';

const FOUR = ['coordinator.start_trainers=4', 'coordinator.outliers=reject', 'coordinator.outlier_factor=5'];

test('a trainer whose norm is far beyond the others is told, named, and left out of the step', async (t) => {
  const warnings: string[] = [];
  const logger: Logger = {
    ...SILENT_LOGGER,
    warn: (event, _fields, text) => void warnings.push(`${event} ${text}`),
  };
  const { url, metrics } = await startRun(t, FOUR, logger);
  const trainers = [];
  for (const name of ['a', 'b', 'c', 'd']) trainers.push(await joinRun(t, url, name));
  for (const { trainer } of trainers) await next(trainer, 'stepAssignment');
  for (const [i, { trainer, contribution }] of trainers.entries()) {
    const parts = contribution(1, i === 1 ? 7 : 1); // of equal numbers: the norms are 7 : 1
    for (const part of parts) trainer.send(part);
    finish(trainer, 1, parts, 8);
  }
  const [a, b] = [trainers[0]!.trainer, trainers[1]!.trainer];
  const rejected = await next(b, 'stepRejected');
  t.is(rejected.step, 1);
  t.regex(rejected.reason, /^its norm, [\d.]+, is 7 times the median of the step's trainers/);
  const { record } = await next(a, 'commit');
  if (record.type !== 'update') return t.fail();
  t.deepEqual(
    record.members.map(({ trainerId }) => trainerId),
    ['a', 'c', 'd'],
  );
  t.is(record.cursor.returned.length, 1); // of 4 sequences the one that b had
  t.true(
    warnings.some((line) => line.startsWith('trainer.outlier b: its contribution to step 1 is left out: ')),
  );
  const { step } = await next(b, 'stepAssignment'); // it goes on, and its sequence is used now
  t.is(step, 2);
  const [line = {}] = await metrics();
  t.is(line['trainers'], 3);
  t.like((line['outliers'] as object[])[0], { trainerId: 'b', action: 'reject' });
});
