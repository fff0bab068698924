/** Trainers with a good token that mean no good, and a real coordinator that goes on with the others. */
import test from 'ava';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { finish, joinRun, next, startRun } from '../support/raw-run.ts';
import { connectRaw, HELLO } from '../support/wire.ts';

const MAX_F32 = (2 - 2 ** -23) * 2 ** 127;

test('numbers and losses that would not be finite in a sum end their sender, and the step goes on', async (t) => {
  const { url } = await startRun(t);
  const a = await joinRun(t, url, 'a');
  const b = await joinRun(t, url, 'b');
  for (const { trainer } of [a, b]) await next(trainer, 'stepAssignment');
  for (const part of b.contribution(1, MAX_F32)) b.trainer.send(part);
  const { code, reason } = await b.trainer.closed;
  t.is(code, CLOSE_CODES.INVALID_CONTRIBUTION.code);
  t.regex(reason, /^number 0 of \d+ is 3\.4\d+e\+38; allowed: a magnitude of at most 1000000000000000000$/);

  const c = await joinRun(t, url, 'c');
  c.trainer.webSocket.send(
    encodeEnvelope({ kind: 'contribution', step: 1, tokens: 16, lossSum: 1e308, checksum: 0 }),
  );
  t.is((await c.trainer.closed).code, CLOSE_CODES.INVALID_CONTRIBUTION.code);

  const parts = a.contribution(1, 1);
  for (const part of parts) a.trainer.send(part);
  finish(a.trainer, 1, parts);
  const { record } = await next(a.trainer, 'commit');
  t.deepEqual(record.type === 'update' && record.members.map(({ trainerId }) => trainerId), ['a']);
});

test('a trainer alone in a run whose results are refused three times is told why it stays out', async (t) => {
  const { url } = await startRun(t, ['coordinator.start_trainers=1']);
  for (let i = 0; i < 3; i++) {
    const { trainer, contribution } = await joinRun(t, url, 'wrong');
    await next(trainer, 'stepAssignment');
    for (const part of contribution(1, MAX_F32)) trainer.send(part);
    t.is((await trainer.closed).code, CLOSE_CODES.INVALID_CONTRIBUTION.code);
  }
  const again = await connectRaw(t, url);
  again.send({ ...HELLO, trainerId: 'wrong' });
  const { code, reason } = await next(again, 'goodbye');
  t.is(code, CLOSE_CODES.LIMIT_EXCEEDED.code);
  t.false(CLOSE_CODES.LIMIT_EXCEEDED.mayRetry);
  t.regex(reason, /^3 of its results for step 1 were refused, the last one because number 0 of \d+ is 3\.4/);
  // The run waits for somebody else, and does the step with it.
  const { trainer, contribution } = await joinRun(t, url, 'right');
  await next(trainer, 'stepAssignment');
  const parts = contribution(1, 1);
  for (const part of parts) trainer.send(part);
  finish(trainer, 1, parts);
  t.is((await next(trainer, 'commit')).step, 1);
});

test('one who joins again and again is sent away for a while, with a code that may be tried again', async (t) => {
  const { url } = await startRun(t, ['coordinator.limits={joins_per_second: 0.001}']);
  const codes: number[] = [];
  let last = await connectRaw(t, url);
  for (let i = 0; i < 66; i++) {
    last.send({ ...HELLO, trainerId: 'again' });
    const answer = await last.messages.takeWhere(({ kind }) => kind === 'welcome' || kind === 'goodbye');
    if (answer.kind === 'goodbye') codes.push(answer.code);
    last = await connectRaw(t, url);
  }
  t.deepEqual(codes, [CLOSE_CODES.RUN_FULL.code, CLOSE_CODES.RUN_FULL.code]);
  t.true(CLOSE_CODES.RUN_FULL.mayRetry);
});
