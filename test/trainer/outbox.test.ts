import test from 'ava';
import type { WebSocket } from 'ws';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { Outbox } from '../../src/trainer/outbox.ts';
import { sampleOf } from '../protocol/samples.ts';

const MEGABYTE = 1024 * 1024;

/** A socket that takes frames and sends them when told to. */
class FakeSocket {
  readonly sent: Message[] = [];
  readonly #pending: { frame: Uint8Array; done?: () => void }[] = [];

  get bufferedAmount(): number {
    return this.#pending.reduce((sum, { frame }) => sum + frame.length, 0);
  }

  send(frame: Uint8Array, done?: () => void): void {
    this.#pending.push(done === undefined ? { frame } : { frame, done });
  }

  /** Sends everything taken, and what is handed over because of that, and so on. */
  flush(frames = Infinity): void {
    for (let count = 0; count < frames; count++) {
      const next = this.#pending.shift();
      if (next === undefined) return;
      this.sent.push(decodeEnvelope(next.frame, 'trainer'));
      next.done?.();
    }
  }
}

function newOutbox(): { outbox: Outbox; socket: FakeSocket; flushed: () => number } {
  const socket = new FakeSocket();
  let flushedBytes = 0;
  const outbox = new Outbox(socket as unknown as WebSocket, (bytes) => (flushedBytes += bytes));
  return { outbox, socket, flushed: () => flushedBytes };
}

function names(messages: readonly Message[]): string[] {
  return messages.map((message) =>
    message.kind === 'part' ? `${message.stream} ${message.tensor}` : message.kind,
  );
}

const CONTRIBUTION = { stream: 'contribution', step: 1, round: 0, tensor: 0, codec: 'f32' } as const;
const SNAPSHOT = { stream: 'snapshot', step: 1, round: 0, tensor: 0, codec: 'f32' } as const;

test('a snapshot yields to everything else, part by part, and its end stays behind its parts', (t) => {
  const { outbox, socket } = newOutbox();
  outbox.sendTensor(SNAPSHOT, new Uint8Array(6 * MEGABYTE));
  outbox.send({ ...sampleOf('snapshotEnd'), tensors: [] });
  outbox.sendTensor(CONTRIBUTION, new Uint8Array(2 * MEGABYTE));
  outbox.send(sampleOf('contribution'));
  outbox.send(sampleOf('heartbeat'));
  socket.flush();
  const order = names(socket.sent);
  const beforeContribution = order.indexOf('contribution 0');
  t.true(beforeContribution <= 3, String(order));
  t.deepEqual(
    order.slice(beforeContribution).filter((name) => name !== 'heartbeat'),
    [
      'contribution 0',
      'contribution 0',
      'contribution',
      ...Array(6 - order.slice(0, beforeContribution).filter((name) => name === 'snapshot 0').length).fill(
        'snapshot 0',
      ),
      'snapshotEnd',
    ],
  );
  t.true(order.indexOf('heartbeat') <= 3, 'a heartbeat waits only for what the socket has already');
});

test('the socket is never given more than it can soon send', (t) => {
  const { outbox, socket, flushed } = newOutbox();
  outbox.sendTensor(CONTRIBUTION, new Uint8Array(20 * MEGABYTE));
  t.true(socket.bufferedAmount < 4 * MEGABYTE);
  socket.flush(5);
  t.true(socket.bufferedAmount < 4 * MEGABYTE);
  t.is(flushed(), 5 * MEGABYTE);
  socket.flush();
  t.is(flushed(), 20 * MEGABYTE);
  t.is(socket.sent.length, 20);
});

test('closing drops what is queued and counts every byte exactly once', (t) => {
  const { outbox, socket, flushed } = newOutbox();
  outbox.sendTensor(CONTRIBUTION, new Uint8Array(5 * MEGABYTE + 3));
  outbox.sendTensor(SNAPSHOT, new Uint8Array(100));
  socket.flush(2);
  outbox.close();
  t.is(flushed(), 5 * MEGABYTE + 103);
  socket.flush();
  outbox.close();
  outbox.sendTensor(CONTRIBUTION, new Uint8Array(7));
  outbox.send(sampleOf('ready'));
  t.is(flushed(), 5 * MEGABYTE + 110);
});

test('the checksum covers the contribution tensors since the step began, and no other stream', (t) => {
  const { outbox, socket } = newOutbox();
  const bytes = (fill: number): Uint8Array => new Uint8Array(MEGABYTE + 1).fill(fill);
  const checksums = (): number[] =>
    socket.sent.flatMap((message) => (message.kind === 'contribution' ? [message.checksum] : []));
  outbox.sendTensor(CONTRIBUTION, bytes(1));
  outbox.sendTensor({ ...CONTRIBUTION, stream: 'sketch', round: 1 }, bytes(2));
  outbox.sendTensor({ ...CONTRIBUTION, tensor: 1 }, bytes(3));
  outbox.send({ ...sampleOf('contribution'), checksum: 0 });
  outbox.send({ ...sampleOf('contribution'), checksum: 0 });
  outbox.sendTensor(CONTRIBUTION, bytes(4));
  outbox.beginStep();
  outbox.sendTensor(CONTRIBUTION, bytes(5));
  outbox.send({ ...sampleOf('contribution'), checksum: 0 });
  socket.flush();
  t.deepEqual(checksums(), [crc32c(bytes(3), crc32c(bytes(1))), 0, crc32c(bytes(5))]);
});

test('the bytes of a tensor are given back once its frames are made, not while it waits, nor when it is dropped', (t) => {
  const socket = new FakeSocket();
  const framed: Uint8Array[] = [];
  const outbox = new Outbox(
    socket as unknown as WebSocket,
    () => {},
    (bytes) => framed.push(bytes),
  );
  const [first, second] = [new Uint8Array(3 * MEGABYTE).fill(7), new Uint8Array(4)];
  outbox.sendTensor(CONTRIBUTION, first!);
  outbox.sendTensor({ ...CONTRIBUTION, tensor: 1 }, second!);
  t.deepEqual(framed, []);
  socket.flush(2);
  t.true(framed.includes(first!));
  first!.fill(0);
  socket.flush();
  const parts = socket.sent.filter((message) => message.kind === 'part' && message.tensor === 0);
  t.is(parts.length, 3);
  t.true(parts.every((part) => part.kind === 'part' && part.payload.every((byte) => byte === 7)));
  t.is(framed.length, 2);
  outbox.sendTensor(CONTRIBUTION, new Uint8Array(5 * MEGABYTE));
  outbox.close();
  t.is(framed.length, 2);
});
