/**
 * What every way for a trainer to connect must do, over a real CoordinatorServer. A suite is a list
 * of tests for one `Connect`; see connection.test.ts.
 */
import test, { type ExecutionContext } from 'ava';
import type { Connection } from '../../src/coordinator/connection.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { expectMessage, snapshotFrames, startServer, type TestServer } from '../support/wire.ts';

/** One connection of a trainer, whatever makes it. */
export interface TrainerSide {
  /** The next Notice. */
  nextNotice(): Promise<string>;
  /** Sends an Evaluation with this step. */
  sendEvaluation(step: number): void;
  /** Leaves with Goodbye LEAVING and resolves when nothing of it is left. */
  leave(text: string): Promise<void>;
  /** The code with which the connection ended. */
  readonly ended: Promise<number>;
}

/** Connects as `trainerId`, and is ready for messages when the coordinator has sent `snapshotFrames()`. */
export type Connect = (t: ExecutionContext, url: string, trainerId: string) => Promise<TrainerSide>;

const MEGABYTE = 1024 * 1024;

/** The server greets by itself; `joined` resolves to the connection of the next trainer. */
async function startGreeter(
  t: ExecutionContext,
): Promise<TestServer & { joined: () => Promise<Connection> }> {
  const server = await startServer(t);
  const inner = server.onMessage;
  server.onMessage = (connection, message) => {
    inner(connection, message);
    if (message.kind === 'hello') for (const frame of snapshotFrames()) connection.send(frame);
  };
  return Object.assign(server, {
    joined: async () => (await expectMessage(server.messages, 'hello')).connection,
  });
}

/** Registers the suite. */
export function testConnectionContract(name: string, connect: Connect): void {
  test.serial(`${name}: messages arrive in both directions in the order they were sent`, async (t) => {
    const { url, joined, messages } = await startGreeter(t);
    const trainer = await connect(t, url, 'a');
    const connection = await joined();
    for (let i = 0; i < 50; i++) {
      connection.send({ kind: 'notice', text: `${i}` });
      trainer.sendEvaluation(i);
    }
    for (let i = 0; i < 50; i++) {
      t.is(await trainer.nextNotice(), `${i}`);
      t.is((await expectMessage(messages, 'evaluation')).message.step, i);
    }
  });

  test.serial(
    `${name}: a connection with the same id replaces the one before, again and again`,
    async (t) => {
      const { url, joined, server } = await startGreeter(t);
      let trainer = await connect(t, url, 'a');
      let connection = await joined();
      for (let i = 0; i < 5; i++) {
        const older = { trainer, connection };
        trainer = await connect(t, url, 'a');
        connection = await joined();
        t.is(await older.trainer.ended, CLOSE_CODES.SUPERSEDED.code);
        t.is(server.connectionOf('a'), connection);
      }
      connection.send({ kind: 'notice', text: 'still here' });
      t.is(await trainer.nextNotice(), 'still here');
    },
  );

  test.serial(`${name}: a Goodbye of either side is the reason the other side gives`, async (t) => {
    const { url, joined, ends } = await startGreeter(t);
    const leaving = await connect(t, url, 'a');
    await joined();
    await leaving.leave('lunch');
    const end = await ends.take();
    t.deepEqual([end.code, end.reason], [CLOSE_CODES.LEAVING.code, 'lunch']);
    const staying = await connect(t, url, 'b');
    (await joined()).close('RUN_FINISHED', 'all done');
    t.is(await staying.ended, CLOSE_CODES.RUN_FINISHED.code);
  });

  test.serial(`${name}: bulk that is ended by closing is abandoned on both sides`, async (t) => {
    const { url, joined, ends } = await startGreeter(t);
    const trainer = await connect(t, url, 'a');
    const connection = await joined();
    const header = { stream: 'snapshot', step: 0, round: 0, tensor: 0, codec: 'f32' } as const;
    const payload = new Uint8Array(MEGABYTE);
    const part: Message = { kind: 'part', ...header, offset: 0, totalBytes: MEGABYTE, payload };
    const sent = connection.sendBulk(Array<Uint8Array>(64).fill(encodeEnvelope(part)));
    const left = trainer.leave('too much');
    t.false((await Promise.all([sent, left]))[0]);
    t.not((await ends.take()).code, CLOSE_CODES.INTERNAL_ERROR.code);
  });

  test.serial(`${name}: twenty connections, one after the other, leave nothing behind`, async (t) => {
    const { url, joined, ends, server } = await startGreeter(t);
    const visit = async (): Promise<void> => {
      const trainer = await connect(t, url, 'a');
      const connection = await joined();
      connection.send({ kind: 'notice', text: 'hello' });
      await trainer.nextNotice();
      await trainer.leave('bye');
      await ends.take();
    };
    await visit();
    const before = resources();
    for (let i = 0; i < 20; i++) await visit();
    t.deepEqual(resources(), before);
    t.deepEqual(server.connections, []);
  });
}

/** Timers, sockets and ports that keep a process alive, counted by kind; and listeners on the process. */
function resources(): Record<string, number> {
  const counts: Record<string, number> = { listeners: process.eventNames().length };
  for (const kind of process.getActiveResourcesInfo()) {
    if (
      kind === 'Timeout' ||
      kind === 'TCPSocketWrap' ||
      kind === 'MessagePort' ||
      kind === 'TCPServerWrap'
    ) {
      counts[kind] = (counts[kind] ?? 0) + 1;
    }
  }
  return counts;
}
