/** Updates whose Parts leave before their record is sealed: a real coordinator, and trainers that are sockets. */
import test from 'ava';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { CommitMessage, PartMessage } from '../../src/protocol/messages.ts';
import { finish, joinRun, next, startRun } from '../support/raw-run.ts';
import type { RawTrainer } from '../support/wire.ts';

/** The next `count` Parts of stream UPDATE, as slots. */
async function takeParts(trainer: RawTrainer, count: number): Promise<PartMessage[]> {
  const parts: PartMessage[] = [];
  while (parts.length < count) parts.push(await next(trainer, 'part'));
  return parts;
}

function digestOf(
  { previousDigest, sequence, step }: CommitMessage,
  parts: readonly PartMessage[],
): Uint8Array {
  return recordDigest(previousDigest, sequence, step, parts.map(encodeEnvelope));
}

test('slots leave while contributions come in, are withdrawn when a member is lost, and come again', async (t) => {
  const { url } = await startRun(t);
  const a = await joinRun(t, url, 'a');
  const b = await joinRun(t, url, 'b');
  for (const { trainer } of [a, b]) t.is((await next(trainer, 'stepAssignment')).step, 1);

  const parts = a.contribution(1);
  for (const part of parts) a.trainer.send(part);
  finish(a.trainer, 1, parts);
  for (const part of b.contribution(1).slice(0, 2)) b.trainer.send(part);
  const early = await takeParts(a.trainer, 2);
  t.deepEqual(
    early.map(({ stream, tensor }) => [stream, tensor]),
    parts.slice(0, 2).map(({ tensor }) => ['update', tensor]),
  );

  b.trainer.webSocket.terminate();
  t.is((await next(a.trainer, 'updateWithdrawn')).step, 1);
  const whole = await takeParts(a.trainer, parts.length);
  t.deepEqual(
    whole.map(({ tensor }) => tensor),
    parts.map(({ tensor }) => tensor),
  );
  const commit = await next(a.trainer, 'commit');
  t.deepEqual(commit.previousDigest, FIRST_DIGEST);
  t.deepEqual(commit.digest, digestOf(commit, whole));
  t.deepEqual(commit.record.type === 'update' && commit.record.members.map(({ trainerId }) => trainerId), [
    'a',
  ]);
});

test('of a step without losses everything but the Commit has left before the last contribution is declared', async (t) => {
  const { url } = await startRun(t);
  const [a, b] = [await joinRun(t, url, 'a'), await joinRun(t, url, 'b')];
  for (const { trainer } of [a, b]) await next(trainer, 'stepAssignment');
  const parts = a.contribution(1);
  for (const { trainer } of [a, b]) for (const part of parts) trainer.send(part);
  const sent = await Promise.all([a, b].map(({ trainer }) => takeParts(trainer, parts.length)));
  for (const { trainer } of [a, b]) finish(trainer, 1, parts);
  for (const [i, { trainer }] of [a, b].entries()) {
    const following = await trainer.messages.takeWhere(({ kind }) => kind === 'commit' || kind === 'part');
    if (following.kind !== 'commit') return t.fail('a Part came twice');
    t.deepEqual(following.digest, digestOf(following, sent[i]!));
    trainer.send({ kind: 'ready', sequence: following.sequence, device: 'none' });
  }
});
