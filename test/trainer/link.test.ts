import test from 'ava';
import { ConfigError } from '../../src/errors.ts';
import type { Connection } from '../../src/coordinator/connection.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { CommitMessage, Message } from '../../src/protocol/messages.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { Link } from '../../src/trainer/link.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { sampleOf } from '../protocol/samples.ts';
import {
  connectRaw,
  expectMessage,
  openLink,
  SIZES,
  snapshotFrames,
  startServer,
  WELCOME,
  type TestLink,
  type TestServer,
} from '../support/wire.ts';

const MEGABYTE = 1024 * 1024;

function sendAll(connection: Connection, messages: readonly Message[]): void {
  for (const message of messages) connection.send(message);
}

/** The frames of the update record after `previousDigest`, and its digest. */
function updateRecord(
  sequence: number,
  previousDigest: Uint8Array,
): { messages: Message[]; digest: Uint8Array } {
  const header = { stream: 'update', step: sequence, round: 0, tensor: 0, codec: 'f32' } as const;
  const parts = [...splitIntoParts(header, new Uint8Array(12).fill(sequence))];
  const digest = recordDigest(previousDigest, sequence, sequence, parts.map(encodeEnvelope));
  const record: CommitMessage['record'] = {
    type: 'update',
    learningRate: 0.1,
    tokens: 4,
    lossSum: 2,
    members: [],
    cursor: { next: 2, returned: [] },
    gradientNorm: 1,
    slotNorms: [],
  };
  return {
    messages: [...parts, { kind: 'commit', sequence, step: sequence, previousDigest, digest, record }],
    digest,
  };
}

/** Brings a Link to where it has the snapshot and has said Ready. */
async function join({ messages }: TestServer, { link, nextOf }: TestLink): Promise<Connection> {
  const { connection } = await expectMessage(messages, 'hello');
  sendAll(connection, snapshotFrames());
  await nextOf('connected');
  link.accept(SIZES);
  await nextOf('snapshotEnd');
  link.applied(0);
  await expectMessage(messages, 'ready');
  return connection;
}

test('joining: Hello, Welcome, snapshot tensors, SnapshotEnd, Ready', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url, { device: 'CPU', token: 'secret', runName: 'demo' });
  const { connection, message: hello } = await expectMessage(server.messages, 'hello');
  t.like(hello, { trainerId: 'a', token: 'secret', runName: 'demo', runId: '' });
  sendAll(connection, snapshotFrames());
  const connected = await trainer.next();
  t.deepEqual(connected, { type: 'connected', welcome: snapshotFrames()[0] } as never);
  trainer.link.accept(SIZES);
  const tensor = await trainer.next();
  if (tensor.type !== 'tensor') return t.fail();
  t.deepEqual([...new Float32Array(tensor.tensor.bytes.buffer)], [1, 2, 3]);
  t.is((await trainer.next()).type, 'snapshotEnd');
  trainer.link.applied(0);
  t.deepEqual((await expectMessage(server.messages, 'ready')).message, {
    kind: 'ready',
    sequence: 0,
    device: 'CPU',
  });
});

test('nothing of the state is handed over before the Welcome was accepted', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  sendAll(connection, [...snapshotFrames(), { kind: 'notice', text: 'after' }]);
  t.is((await trainer.next()).type, 'connected');
  const early = trainer.next();
  t.is(await Promise.race([early, Promise.resolve('nothing yet')]), 'nothing yet');
  trainer.link.accept(SIZES);
  t.is((await early).type, 'tensor');
  t.is((await trainer.next()).type, 'snapshotEnd');
  t.is((await trainer.next()).type, 'message');
});

test('a Welcome that is refused ends the link for good, and the coordinator is told why', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  sendAll(connection, snapshotFrames());
  await trainer.nextOf('connected');
  trainer.link.refuse('SCHEMA_MISMATCH', 'other slots');
  t.deepEqual(await trainer.nextOf('closed'), {
    type: 'closed',
    reason: 'SCHEMA_MISMATCH',
    code: 4006,
    text: 'other slots',
    mayRetry: false,
  });
  const end = await server.ends.take();
  t.deepEqual([end.code, end.reason], [4006, 'other slots']);
});

test('records are handed over whole and in order, and move the state the next Hello offers', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const connection = await join(server, trainer);
  const first = updateRecord(1, FIRST_DIGEST);
  const second = updateRecord(2, first.digest);
  sendAll(connection, [...first.messages, ...second.messages]);
  for (const sequence of [1, 2]) {
    const event = await trainer.next();
    if (event.type !== 'record') return t.fail(event.type);
    t.is(event.commit.sequence, sequence);
    t.deepEqual([...event.tensors[0]!.bytes], Array(12).fill(sequence));
    trainer.link.applied(sequence);
  }
  connection.close('COORDINATOR_STOPPING', 'back soon');
  t.is((await trainer.next()).type, 'disconnected');
  const { message: hello } = await expectMessage(server.messages, 'hello');
  t.like(hello, { runId: 'run-1', sequence: 2 });
  t.deepEqual(hello.digest, second.digest);
});

test('after a reconnect without snapshot the trainer says Ready by itself and records go on', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const older = await join(server, trainer);
  older.close('COORDINATOR_STOPPING', 'back soon');
  const { connection } = await expectMessage(server.messages, 'hello');
  connection.send(WELCOME);
  const { message: ready } = await expectMessage(server.messages, 'ready');
  t.is(ready.sequence, 0);
  sendAll(connection, updateRecord(1, FIRST_DIGEST).messages);
  await trainer.nextOf('connected'); // the accept of the first time still holds
  t.is((await trainer.next()).type, 'record');
});

test('a record with a wrong digest makes the trainer join again without state', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const connection = await join(server, trainer);
  const { messages } = updateRecord(1, FIRST_DIGEST);
  sendAll(
    connection,
    messages.map((message) =>
      message.kind === 'commit' ? { ...message, digest: new Uint8Array(32) } : message,
    ),
  );
  t.is((await trainer.next()).type, 'stateDiscarded');
  t.is((await trainer.next()).type, 'disconnected');
  const end = await server.ends.take();
  t.is(end.code, CLOSE_CODES.STATE_DIVERGED.code);
  t.is((await expectMessage(server.messages, 'hello')).message.runId, '');
});

test('a state that is reported spoiled is given up the same way', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  await join(server, trainer);
  trainer.link.spoiled('no memory left');
  t.is((await trainer.next()).type, 'stateDiscarded');
  t.is((await trainer.next()).type, 'disconnected');
  t.is((await expectMessage(server.messages, 'hello')).message.runId, '');
});

test('a contribution arrives in order with the checksum of its bytes', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const connection = await join(server, trainer);
  const step = async (seed: number): Promise<void> => {
    connection.send(sampleOf('stepAssignment'));
    await trainer.nextOf('message');
    const tensors = [0, 1].map((tensor) => new Uint8Array(MEGABYTE + 10).fill(seed + tensor));
    const checksum = tensors.reduce((crc, bytes) => crc32c(bytes, crc), 0);
    tensors.forEach((bytes, tensor) =>
      trainer.link.sendTensor({ stream: 'contribution', step: 12, round: 0, tensor, codec: 'f32' }, bytes),
    );
    trainer.link.send({ kind: 'contribution', step: 12, tokens: 5, lossSum: 2.5 });
    const offsets: [number, number][] = [];
    for (;;) {
      const { message } = await server.messages.take();
      if (message.kind === 'part') offsets.push([message.tensor, message.offset]);
      if (message.kind !== 'contribution') continue;
      t.deepEqual(message, { kind: 'contribution', step: 12, tokens: 5, lossSum: 2.5, checksum });
      break;
    }
    t.deepEqual(offsets, [[0, 0], [0, MEGABYTE], [1, 0], [1, MEGABYTE]]); // prettier-ignore
  };
  await step(1);
  await step(7);
  // Tensors sent for a step that is assigned anew do not count.
  trainer.link.sendTensor(
    { stream: 'contribution', step: 12, round: 0, tensor: 0, codec: 'f32' },
    new Uint8Array(10),
  );
  await expectMessage(server.messages, 'part');
  await step(9);
});

test('a whole buffer is transferred, a view is copied', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  await join(server, trainer);
  const whole = new Uint8Array(12);
  const view = new Uint8Array(24).subarray(0, 12);
  const header = { stream: 'contribution', step: 1, round: 0, tensor: 0, codec: 'f32' } as const;
  trainer.link.sendTensor(header, whole);
  trainer.link.sendTensor(header, view);
  t.is(whole.length, 0);
  t.is(view.length, 12);
  await expectMessage(server.messages, 'part');
  await expectMessage(server.messages, 'part');
});

test('drained resolves when what was sent has left', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  await join(server, trainer);
  const header = { stream: 'snapshot', step: 0, round: 0, codec: 'f32' } as const;
  for (let tensor = 0; tensor < 4; tensor++) {
    trainer.link.sendTensor({ ...header, tensor }, new Uint8Array(2 * MEGABYTE));
  }
  trainer.link.send({ kind: 'snapshotEnd', step: 0, sequence: 0, tensors: [] });
  await trainer.link.drained(4 * MEGABYTE);
  await trainer.link.drained(0);
  const { message } = await expectMessage(server.messages, 'snapshotEnd');
  t.deepEqual(message.digest, new Uint8Array(0));
});

test('what is sent for a connection that is gone is dropped, and assignments nobody took are void', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const older = await join(server, trainer);
  sendAll(older, [
    sampleOf('stepAssignment'),
    ...updateRecord(1, FIRST_DIGEST).messages,
    { kind: 'notice', text: 'never seen' },
  ]);
  older.closeAfterQueue('COORDINATOR_STOPPING', 'back soon');
  const { connection, message: hello } = await expectMessage(server.messages, 'hello');
  t.is(hello.sequence, 1);
  // The events of the old connection are still queued here: work for it is dropped, the record stays.
  trainer.link.send({ kind: 'contribution', step: 1, tokens: 1, lossSum: 1 });
  trainer.link.sendTensor(
    { stream: 'contribution', step: 1, round: 0, tensor: 0, codec: 'f32' },
    new Uint8Array(12),
  );
  await trainer.link.drained(0);
  t.is((await trainer.next()).type, 'record');
  trainer.link.applied(1);
  t.is((await trainer.next()).type, 'disconnected');
  connection.send(WELCOME);
  t.is((await trainer.next()).type, 'connected');
  t.is((await server.messages.take()).message.kind, 'ready');
  trainer.link.send({ kind: 'contribution', step: 2, tokens: 1, lossSum: 1 });
  const { message } = await expectMessage(server.messages, 'contribution');
  t.is(message.step, 2);
});

test('heartbeats tell what is being done', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  const [welcome, ...rest] = snapshotFrames();
  sendAll(connection, [{ ...WELCOME, ...welcome, heartbeatIntervalMs: 20 } as Message, ...rest]);
  await trainer.nextOf('connected');
  trainer.link.accept(SIZES);
  trainer.link.setActivity({ activity: 'step 3: backward', tensorCount: 7 });
  trainer.link.setActivity({ tokensPerSecond: 12.5 });
  for (;;) {
    const { message } = await expectMessage(server.messages, 'heartbeat');
    if (message.activity === '') continue;
    t.like(message, { activity: 'step 3: backward', tensorCount: 7, tokensPerSecond: 12.5 });
    t.true(message.residentBytes > 1e6);
    break;
  }
});

for (const reason of ['RUN_FINISHED', 'UNAUTHORIZED', 'SUPERSEDED', 'TIMEOUT', 'RUN_FULL'] as const) {
  const { code, mayRetry } = CLOSE_CODES[reason];
  test(`${reason} ${mayRetry ? 'makes the link come back' : 'ends the link'}`, async (t) => {
    const server = await startServer(t);
    const trainer = openLink(t, server.url);
    let { connection } = await expectMessage(server.messages, 'hello');
    connection.close(reason, 'because');
    if (mayRetry) {
      const event = await trainer.nextOf('disconnected');
      t.true(event.willRetryMs >= 0 && event.reason.includes('because'));
      ({ connection } = await expectMessage(server.messages, 'hello'));
      connection.close('RUN_FINISHED', 'enough');
    }
    const closed = await trainer.nextOf('closed');
    t.is(closed.code, mayRetry ? 4000 : code);
  });
}

test('a coordinator that says nothing more is given up after the heartbeat timeout', async (t) => {
  const server = await startServer(t, { heartbeatIntervalMs: 60_000 });
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  connection.send({ ...WELCOME, heartbeatIntervalMs: 50, heartbeatTimeoutMs: 150 });
  await trainer.nextOf('connected');
  trainer.link.accept(SIZES);
  t.regex((await trainer.nextOf('disconnected')).reason, /nothing heard for 0\.\d s/);
  t.is((await server.ends.take()).code, CLOSE_CODES.TIMEOUT.code);
});

test('a coordinator that does not answer the Hello is given up after the handshake timeout', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url, { handshakeTimeoutMs: 1000 });
  t.regex((await trainer.nextOf('disconnected')).reason, /no Welcome came within 1\.\d s/);
});

test('a compute side that falls behind slows the coordinator down instead of filling memory', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url, { maxUndeliveredBytes: MEGABYTE });
  const { connection } = await expectMessage(server.messages, 'hello');
  const info = { shape: [MEGABYTE / 4], codec: 'f32', totalBytes: MEGABYTE } as const;
  const tensors = Array.from({ length: 48 }, (_, index) => ({ ...info, name: `weights/${index}` }));
  connection.send({
    ...WELCOME,
    heartbeatIntervalMs: 20,
    snapshot: { step: 0, sequence: 0, tensors, digest: new Uint8Array(0), firstTensor: 0 },
  });
  await trainer.nextOf('connected');
  trainer.link.accept(SIZES);
  const payload = new Uint8Array(MEGABYTE);
  const header = { kind: 'part', stream: 'snapshot', step: 0, round: 0, codec: 'f32', offset: 0 } as const;
  const frames = tensors.map((_, tensor) =>
    encodeEnvelope({ ...header, tensor, totalBytes: MEGABYTE, payload }),
  );
  const sent = connection.sendBulk(frames);
  for (let beats = 0; beats < 4; beats++) await expectMessage(server.messages, 'heartbeat');
  t.true(connection.unsentBytes > 16 * MEGABYTE, `${connection.unsentBytes} bytes are unsent`);
  for (let tensor = 0; tensor < tensors.length; tensor++) t.is((await trainer.next()).type, 'tensor');
  t.true(await sent);
});

/** A snapshot of three tensors of three numbers, as a coordinator that was told of `firstTensor` sends it. */
function longSnapshot(firstTensor: number): { welcome: Message; parts: readonly Message[]; end: Message } {
  const info = { shape: [3], codec: 'f32', totalBytes: 12 } as const;
  const tensors = ['a', 'b', 'c'].map((name) => ({ ...info, name: `weights/${name}` }));
  const [step, sequence, digest] = [4, 5, new Uint8Array(32).fill(7)];
  const header = { kind: 'part', stream: 'snapshot', step, round: 0, codec: 'f32', offset: 0 } as const;
  return {
    welcome: { ...WELCOME, snapshot: { step, sequence, tensors, digest, firstTensor } },
    parts: tensors.flatMap((_, tensor): Message[] =>
      tensor < firstTensor
        ? []
        : [{ ...header, tensor, totalBytes: 12, payload: new Uint8Array(12).fill(tensor) }],
    ),
    end: { kind: 'snapshotEnd', step, sequence, digest, tensors: [] },
  };
}

test('a snapshot that broke off is gone on with where it broke off', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const first = await expectMessage(server.messages, 'hello');
  t.is(first.message.snapshot, null);
  const whole = longSnapshot(0);
  sendAll(first.connection, [whole.welcome, ...whole.parts.slice(0, 2)]);
  await trainer.nextOf('connected');
  trainer.link.accept(SIZES);
  t.is((await trainer.nextOf('tensor')).tensor.tensor, 0);
  t.is((await trainer.nextOf('tensor')).tensor.tensor, 1);
  first.connection.close('TIMEOUT', 'the link is cut');

  const second = await expectMessage(server.messages, 'hello');
  const digest = new Uint8Array(32).fill(7);
  t.deepEqual(second.message.snapshot, { runId: WELCOME.runId, sequence: 5, digest, tensors: 2 });
  const rest = longSnapshot(2);
  sendAll(second.connection, [rest.welcome, ...rest.parts, rest.end]);
  t.is((await trainer.nextOf('tensor')).tensor.tensor, 2);
  t.is((await trainer.nextOf('snapshotEnd')).message.sequence, 5);
  second.connection.close('TIMEOUT', 'the link is cut');
  t.is((await expectMessage(server.messages, 'hello')).message.snapshot, null);
});

test('a snapshot that leaves out what the trainer does not have is refused', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  connection.send(longSnapshot(1).welcome);
  const { code, reason } = await server.ends.take();
  t.is(code, CLOSE_CODES.UNEXPECTED_MESSAGE.code);
  t.regex(reason, /begins with tensor 1, and what comes before it is not here/);
  await trainer.nextOf('closed');
});

test('whatever is malformed from the coordinator ends the link with a code', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const { connection } = await expectMessage(server.messages, 'hello');
  connection.send(Uint8Array.from([0xff, 0xff]));
  const closed = await trainer.nextOf('closed');
  t.is(closed.reason, 'MALFORMED_MESSAGE');
});

test('a coordinator that is not there is tried again', async (t) => {
  const server = await startServer(t);
  const { url } = server;
  await server.server.close();
  const trainer = openLink(t, url);
  const first = await trainer.nextOf('disconnected');
  t.regex(first.reason, /ECONNREFUSED/);
  await trainer.nextOf('disconnected');
});

test('a trainer that is told 429 waits and comes again', async (t) => {
  let nowMs = 0;
  const { url, messages } = await startServer(t, { maxHandshakesPerSecond: 1, now: () => nowMs });
  const stranger = await connectRaw(t, url); // takes the one handshake of this second
  const { nextOf } = openLink(t, url);
  const { reason, willRetryMs } = await nextOf('disconnected');
  t.regex(reason, /takes no more connections from this address for now \(429/);
  t.true(willRetryMs > 0);
  nowMs = 1_000;
  stranger.webSocket.terminate();
  await expectMessage(messages, 'hello');
});

test('leaving is polite and may be asked for twice, with or without a connection', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  await join(server, trainer);
  await Promise.all([trainer.link.close('lunch'), trainer.link.close()]);
  const end = await server.ends.take();
  t.deepEqual([end.code, end.reason], [CLOSE_CODES.LEAVING.code, 'lunch']);
  t.like(await trainer.nextOf('closed'), { reason: 'LEAVING', mayRetry: false });
  const lonely = openLink(t, 'ws://127.0.0.1:1/');
  await lonely.link.close();
  await trainer.link.close();
});

test('an address or an id that cannot be is refused before anything is started', (t) => {
  for (const url of ['', 'example.com', 'http://example.com/', 'ws://host/#x']) {
    t.throws(() => Link.open({ url, trainerId: 'a', logger: SILENT_LOGGER }), { instanceOf: ConfigError });
  }
  const error = t.throws(() => Link.open({ url: 'ws://h/', trainerId: 'a b', logger: SILENT_LOGGER }), {
    instanceOf: ConfigError,
  });
  t.is(error?.faults[0]?.field, 'trainer id');
});

test('bytes are counted on the sockets of all connections', async (t) => {
  const server = await startServer(t);
  const trainer = openLink(t, server.url);
  const connection = await join(server, trainer);
  trainer.link.sendTensor(
    { stream: 'contribution', step: 1, round: 0, tensor: 0, codec: 'f32' },
    new Uint8Array(MEGABYTE),
  );
  await expectMessage(server.messages, 'part');
  connection.close('RUN_FINISHED', 'done');
  await trainer.nextOf('closed');
  t.is(trainer.link.bytesSent, server.server.bytesReceived);
  t.is(trainer.link.bytesReceived, server.server.bytesSent);
});
