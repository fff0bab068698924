import test from 'ava';
import type { Connection } from '../../src/coordinator/connection.ts';
import { Session } from '../../src/coordinator/session.ts';

test('a trainer that reads nothing is owed a bounded number of answers', async (t) => {
  const closings: string[] = [];
  const connection = {
    isOpen: true,
    send: () => {},
    close(reason: string, text: string) {
      this.isOpen = false;
      closings.push(`${reason}: ${text}`);
    },
  };
  const session = new Session('a', connection as unknown as Connection, (error) => t.fail(String(error)));
  let release = (): void => {};
  session.enqueue(() => new Promise((resolve) => (release = resolve))); // a snapshot that it does not read
  for (let i = 0; i < 100_000; i++) session.send({ kind: 'stepRejected', step: 1, reason: 'late' });
  t.deepEqual(closings, ['TIMEOUT: it reads nothing: 32769 answers wait for it, allowed: 32768']);
  release();
  await new Promise((resolve) => setImmediate(resolve));
});

test('one that does read is owed nothing for long', async (t) => {
  let sent = 0;
  const connection = { isOpen: true, send: () => sent++, close: () => t.fail() } as unknown as Connection;
  const session = new Session('a', connection, (error) => t.fail(String(error)));
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 20_000; i++) session.send({ kind: 'stepRejected', step: 1, reason: 'late' });
    await new Promise<void>((resolve) => session.enqueue(resolve));
  }
  t.is(sent, 80_000);
});
