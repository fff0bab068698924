import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { WebSocket } from 'ws';
import { CoordinatorServer, type ServerOptions } from '../../src/coordinator/server.ts';
import { OperatingError, ProtocolError } from '../../src/errors.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { MAX_FRAME_BYTES } from '../../src/protocol/limits.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { connectRaw, expectMessage, HELLO, startServer, WELCOME, type RawTrainer } from '../support/wire.ts';
import { sampleOf } from '../protocol/samples.ts';

const MEGABYTE = 1024 * 1024;

/** A Part frame of about `bytes` bytes, numbered so that the receiver can check the order. */
function updateFrame(tensor: number, bytes: number): Uint8Array {
  const payload = new Uint8Array(bytes);
  return encodeEnvelope({
    kind: 'part',
    stream: 'update',
    step: 1,
    round: 0,
    tensor,
    codec: 'f32',
    offset: 0,
    totalBytes: bytes,
    payload,
  });
}

/** Sends raw bytes or text and tells how the server closed. */
async function answerTo(t: Parameters<typeof connectRaw>[0], url: string, ...data: (Uint8Array | string)[]) {
  const trainer = await connectRaw(t, url);
  for (const item of data) trainer.webSocket.send(item, { binary: typeof item !== 'string' });
  return trainer.closed;
}

/** Tensor numbers of Parts and kinds of other messages until `kind` comes. */
async function arrivalsUntil(trainer: RawTrainer, kind: Message['kind']): Promise<(number | string)[]> {
  const arrivals: (number | string)[] = [];
  for (;;) {
    const message = await trainer.messages.take();
    arrivals.push(message.kind === 'part' ? message.tensor : message.kind);
    if (message.kind === kind) return arrivals;
  }
}

test('whatever is malformed or out of turn closes that connection with its code, and no other', async (t) => {
  const { url, messages, server, fatals } = await startServer(t);
  const good = await connectRaw(t, url);
  good.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  const hello = encodeEnvelope({ ...HELLO, trainerId: 'b' });
  const cases: [keyof typeof CLOSE_CODES, (Uint8Array | string)[]][] = [
    ['MALFORMED_MESSAGE', ['hello']],
    ['MALFORMED_MESSAGE', [new Uint8Array(0)]],
    ['MALFORMED_MESSAGE', [Uint8Array.from([0xff, 0xff, 0xff])]],
    ['MALFORMED_MESSAGE', [hello.slice(0, 5)]],
    ['MALFORMED_MESSAGE', [hello, new Uint8Array(MAX_FRAME_BYTES)]],
    ['UNEXPECTED_MESSAGE', [encodeEnvelope(sampleOf('ready'))]],
    ['UNEXPECTED_MESSAGE', [hello, hello]],
    ['UNEXPECTED_MESSAGE', [hello, encodeEnvelope(WELCOME)]],
    ['UNEXPECTED_MESSAGE', [hello, updateFrame(0, 10)]],
    ['INVALID_CONTRIBUTION', [hello, encodeEnvelope({ ...sampleOf('contribution'), lossSum: NaN })]],
  ];
  for (const [reason, data] of cases) {
    const { code, reason: said } = await answerTo(t, url, ...data);
    t.is(code, CLOSE_CODES[reason].code, `${reason}: ${said}`);
    t.true(said.length > 0);
  }
  t.is((await answerTo(t, url, new Uint8Array(MAX_FRAME_BYTES + 1))).code, 1009);
  t.true(connection.isOpen);
  t.is(server.connectionOf('a'), connection);
  t.deepEqual(fatals, []);
});

test('a Goodbye says why before the close frame does', async (t) => {
  const { url } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(sampleOf('ready'));
  t.deepEqual(await trainer.messages.take(), {
    kind: 'goodbye',
    code: 4003,
    reason: 'ready came before Hello',
  });
  t.deepEqual(await trainer.closed, { code: 4003, reason: 'ready came before Hello' });
});

test('between Hello and admission only heartbeats are allowed', async (t) => {
  const started = await startServer(t);
  started.onMessage = (connection, message) => started.messages.put({ connection, message });
  const trainer = await connectRaw(t, started.url);
  trainer.send(HELLO);
  trainer.send(sampleOf('heartbeat'));
  trainer.send(sampleOf('ready'));
  await expectMessage(started.messages, 'heartbeat');
  t.deepEqual(await trainer.closed, { code: 4003, reason: 'ready came before the Welcome' });
});

test('a connection that is not admitted in time is closed with TIMEOUT', async (t) => {
  const { url } = await startServer(t, { handshakeTimeoutMs: 30 });
  const trainer = await connectRaw(t, url);
  t.is((await trainer.closed).code, CLOSE_CODES.TIMEOUT.code);
});

test('a connection on which nothing comes is closed with TIMEOUT', async (t) => {
  const { url, ends } = await startServer(t, { heartbeatIntervalMs: 20, heartbeatTimeoutMs: 60 });
  const webSocket = new WebSocket(url, { autoPong: false });
  t.teardown(() => webSocket.terminate());
  webSocket.on('open', () => webSocket.send(encodeEnvelope(HELLO)));
  const [code] = (await once(webSocket, 'close')) as [number];
  t.is(code, CLOSE_CODES.TIMEOUT.code);
  const end = await ends.take();
  t.is(end.code, CLOSE_CODES.TIMEOUT.code);
  t.regex(end.reason, /nothing heard for 0\.\d s/);
});

test('answers to pings are enough to stay', async (t) => {
  const { url, messages } = await startServer(t, { heartbeatIntervalMs: 20, heartbeatTimeoutMs: 60 });
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  for (let pings = 0; pings < 8; pings++) await once(trainer.webSocket, 'ping');
  t.true(connection.isOpen);
});

test('after a pause of the coordinator itself nobody is taken for silent', async (t) => {
  let skippedMs = 0;
  const now = (): number => performance.now() + skippedMs;
  const { url, messages } = await startServer(t, { heartbeatIntervalMs: 20, heartbeatTimeoutMs: 60, now });
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  for (let pings = 0; pings < 4; pings++) {
    await once(trainer.webSocket, 'ping');
    skippedMs += 1_000;
  }
  t.true(connection.isOpen);
});

test('a second connection with the same id replaces the first', async (t) => {
  const { url, messages, server, ends } = await startServer(t);
  const first = await connectRaw(t, url);
  first.send(HELLO);
  const older = (await expectMessage(messages, 'hello')).connection;
  const second = await connectRaw(t, url);
  second.send(HELLO);
  const newer = (await expectMessage(messages, 'hello')).connection;
  t.is((await first.closed).code, CLOSE_CODES.SUPERSEDED.code);
  const end = await ends.take();
  t.is(end.connection, older);
  t.is(older.trainerId, null);
  t.is(server.connectionOf('a'), newer);
  t.deepEqual(server.connections, [newer]);
});

test('frames arrive in the order they were given; only a message that may overtake goes ahead', async (t) => {
  const { url, messages } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  trainer.webSocket.pause();
  const bulk = [...Array(16).keys()].map((tensor) => updateFrame(tensor, MEGABYTE));
  const sent = connection.sendBulk(bulk.slice(0, 10));
  connection.send(sampleOf('commit'));
  const sentToo = connection.sendBulk(bulk.slice(10).values());
  connection.send(sampleOf('stepAssignment'));
  connection.send({ kind: 'notice', text: 'first' });
  t.true(connection.unsentBytes > 10 * MEGABYTE);
  trainer.webSocket.resume();
  const arrivals = await arrivalsUntil(trainer, 'stepAssignment');
  t.true(arrivals.indexOf('notice') < 8, String(arrivals));
  const ordered = arrivals.filter((arrival) => arrival !== 'notice');
  t.deepEqual(ordered, [...Array(10).keys(), 'commit', 10, 11, 12, 13, 14, 15, 'stepAssignment']);
  t.deepEqual(await Promise.all([sent, sentToo]), [true, true]);
  t.is(connection.unsentBytes, 0);
});

test('an iterable is read only as fast as the peer takes it', async (t) => {
  const { url, messages } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  trainer.webSocket.pause();
  let taken = 0;
  const frame = updateFrame(0, MEGABYTE);
  async function* journalTail(): AsyncGenerator<Uint8Array> {
    for (; taken < 64; taken++) yield frame;
  }
  const sent = connection.sendBulk(journalTail());
  const late = connection.sendBulk([encodeEnvelope(sampleOf('commit'))]);
  // The server goes on pulling until the operating system takes no more; two round trips of another connection later it has stopped.
  const other = await connectRaw(t, url);
  other.send({ ...HELLO, trainerId: 'b' });
  await expectMessage(messages, 'hello');
  t.true(taken < 32, `${taken} frames were taken`);
  t.true(connection.unsentBytes < 8 * MEGABYTE);
  trainer.webSocket.resume();
  await arrivalsUntil(trainer, 'commit');
  t.deepEqual(await Promise.all([sent, late]), [true, true]);
  t.is(taken, 64);
});

test('a peer that reads too slowly is closed with TIMEOUT, which may be retried', async (t) => {
  const { url, messages, ends } = await startServer(t, { maxUnsentBytes: 8 * MEGABYTE });
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  trainer.webSocket.pause();
  const record = [...Array(6).keys()].map((tensor) => updateFrame(tensor, MEGABYTE));
  const results = [1, 2, 3, 4].map(() => connection.sendBulk(record));
  t.false(connection.isOpen);
  t.deepEqual(new Set(await Promise.all(results)), new Set([false]));
  const end = await ends.take();
  t.is(end.code, CLOSE_CODES.TIMEOUT.code);
  t.regex(end.reason, /reads too slowly: \d+ bytes unsent, allowed: 8388608 /);
});

test('one record larger than the limit on unsent bytes is still sent', async (t) => {
  const { url, messages } = await startServer(t, { maxUnsentBytes: MEGABYTE });
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  const record = [0, 1, 2, 3].map((tensor) => updateFrame(tensor, MEGABYTE));
  t.true(await connection.sendBulk(record));
});

test('when the connection ends, what waits to be sent is settled and its source is closed', async (t) => {
  const { url, messages, ends } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  let isSourceClosed = false;
  async function* source(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) yield updateFrame(0, MEGABYTE);
    } finally {
      isSourceClosed = true;
    }
  }
  trainer.webSocket.pause();
  const sent = connection.sendBulk(source());
  const queued = connection.sendBulk([updateFrame(1, 10)]);
  trainer.webSocket.terminate();
  t.deepEqual(await Promise.all([sent, queued]), [false, false]);
  const end = await ends.take();
  t.is(end.code, 1006);
  t.true(isSourceClosed);
  t.false(await connection.sendBulk([updateFrame(0, 10)]));
  t.notThrows(() => connection.send(WELCOME));
});

test('a source that fails ends the connection with INTERNAL_ERROR and tells its caller', async (t) => {
  const { url, messages } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  async function* source(): AsyncGenerator<Uint8Array> {
    yield updateFrame(0, 10);
    throw new Error('the disk is gone');
  }
  await t.throwsAsync(connection.sendBulk(source()), { message: 'the disk is gone' });
  t.is((await trainer.closed).code, CLOSE_CODES.INTERNAL_ERROR.code);
});

test('closeAfterQueue lets everything queued arrive before the Goodbye', async (t) => {
  const { url, messages } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  void connection.sendBulk([...Array(8).keys()].map((tensor) => updateFrame(tensor, MEGABYTE)));
  connection.closeAfterQueue('RUN_FINISHED', 'all steps are done');
  connection.send(sampleOf('stepAssignment')); // too late
  t.deepEqual(await arrivalsUntil(trainer, 'goodbye'), [0, 1, 2, 3, 4, 5, 6, 7, 'goodbye']);
  t.deepEqual(await trainer.closed, { code: 4000, reason: 'all steps are done' });
});

test('closeAfterQueue does not wait for ever', async (t) => {
  const { url, messages, ends } = await startServer(t, { drainTimeoutMs: 30, closeGraceMs: 30 });
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  trainer.webSocket.pause();
  const sent = connection.sendBulk([...Array(16).keys()].map((tensor) => updateFrame(tensor, MEGABYTE)));
  connection.closeAfterQueue('RUN_FINISHED', 'all steps are done');
  t.false(await sent);
  t.is((await ends.take()).code, CLOSE_CODES.RUN_FINISHED.code);
});

test('a handler may refuse by a ProtocolError; any other error is fatal', async (t) => {
  const started = await startServer(t);
  const bug = new Error('a bug');
  started.onMessage = (connection, message) => {
    if (message.kind === 'hello') return started.server.admit(connection, message.trainerId);
    throw message.kind === 'ready' ? new ProtocolError(CLOSE_CODES.WRONG_RUN.code, 'not here') : bug;
  };
  const trainer = await connectRaw(t, started.url);
  trainer.send(HELLO);
  trainer.send(sampleOf('stateHash'));
  trainer.send(sampleOf('ready'));
  t.deepEqual(await trainer.closed, { code: CLOSE_CODES.WRONG_RUN.code, reason: 'not here' });
  t.deepEqual(started.fatals, [bug]);
});

test('a trainer’s Goodbye is the reason of the end, whatever number is in it', async (t) => {
  const { url, ends, fatals } = await startServer(t);
  for (const code of [4015, 0, 5, 1005, 65_535]) {
    const trainer = await connectRaw(t, url);
    trainer.send(HELLO);
    trainer.send({ kind: 'goodbye', code, reason: 'going home' });
    await trainer.closed;
    const end = await ends.take();
    t.deepEqual({ code: end.code, reason: end.reason }, { code, reason: 'going home' });
  }
  t.deepEqual(fatals, []);
});

test('too many messages in a second are a LIMIT_EXCEEDED, pings count too', async (t) => {
  const { url, server } = await startServer(t, { maxMessagesPerSecond: 50 });
  for (const flood of ['heartbeat', 'ping'] as const) {
    const trainer = await connectRaw(t, url);
    trainer.send(HELLO);
    for (let i = 0; i < 60; i++) {
      if (flood === 'ping') trainer.webSocket.ping();
      else trainer.send(sampleOf('heartbeat'));
    }
    t.is((await trainer.closed).code, CLOSE_CODES.LIMIT_EXCEEDED.code);
  }
  t.is(server.connectionOf('a'), null);
});

test('bytes are counted on the socket, and kept when a connection is gone', async (t) => {
  const { url, messages, server, ends } = await startServer(t);
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  await connection.sendBulk([updateFrame(0, MEGABYTE)]);
  t.true(connection.bytesSent > MEGABYTE && connection.bytesSent < MEGABYTE + 1024);
  t.true(connection.bytesReceived > 100 && connection.bytesReceived < 1024);
  trainer.webSocket.close();
  await ends.take();
  t.true(server.bytesSent > MEGABYTE && server.bytesReceived > 100);
});

test('a socket that never answers the close frame is destroyed after the grace time', async (t) => {
  const { server, ends } = await startServer(t, { handshakeTimeoutMs: 20, closeGraceMs: 20 });
  const socket = connect(server.port, '127.0.0.1');
  t.teardown(() => socket.destroy());
  socket.on('error', () => {});
  const key = Buffer.alloc(16).toString('base64');
  socket.write(
    `GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  );
  t.is((await ends.take()).code, CLOSE_CODES.TIMEOUT.code);
});

test('a request that is no upgrade gets a 404, or what onRequest answers', async (t) => {
  const { server } = await startServer(t);
  t.is(await statusOf(server.port, '/'), 404);
  t.is(await statusOf(server.port, '/etc/passwd'), 404);
  const answering = await CoordinatorServer.listen(
    {
      host: '127.0.0.1',
      port: 0,
      handshakeTimeoutMs: 1000,
      heartbeatIntervalMs: 1000,
      heartbeatTimeoutMs: 5000,
      logger: SILENT_LOGGER,
    },
    {
      onMessage() {},
      onClose() {},
      onFatal() {},
      onRequest: (_request, response) => void response.writeHead(200).end('ok'),
    },
  );
  t.teardown(() => answering.close());
  t.is(await statusOf(answering.port, '/healthz'), 200);
});

test('an upgrade is refused on another path, from a web page, and beyond maxConnections', async (t) => {
  const { server, url } = await startServer(t, { maxConnections: 1 });
  const upgrade = {
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
  };
  t.is(await statusOf(server.port, '/other', upgrade), 404);
  t.is(await statusOf(server.port, '//', upgrade), 404);
  t.is(await statusOf(server.port, '/', { ...upgrade, origin: 'http://example.com' }), 403);
  await connectRaw(t, url);
  t.is(await statusOf(server.port, '/', upgrade), 503);
});

test('an address that has too many connections, or comes too often, is told so and may come again', async (t) => {
  const crowded = await startServer(t, { maxConnectionsPerAddress: 2 });
  const first = await connectRaw(t, crowded.url);
  await connectRaw(t, crowded.url);
  const refused = await refusalOf(crowded.server.port);
  t.is(refused.status, 429);
  t.regex(
    refused.text,
    /^connections from one address: 3, allowed: 2 \(coordinator\.limits\.connections_per_address\)/,
  );
  first.webSocket.terminate();
  await crowded.ends.take();
  await connectRaw(t, crowded.url);

  let nowMs = 0;
  const busy = await startServer(t, { maxHandshakesPerSecond: 3, now: () => nowMs });
  for (let i = 0; i < 3; i++) await connectRaw(t, busy.url);
  const early = await refusalOf(busy.server.port);
  t.is(early.status, 429);
  t.regex(early.text, /more than 3, allowed: 3 \(coordinator\.limits\.handshakes_per_second\)/);
  t.is(await statusOf(busy.server.port, '/healthz'), 429);
  nowMs = 400;
  await connectRaw(t, busy.url);
});

test('64 trainers of one address that start at once are let in', async (t) => {
  const { url, server } = await startServer(t, { handshakeTimeoutMs: 60_000 });
  await Promise.all(Array.from({ length: 64 }, () => connectRaw(t, url)));
  t.is(server.connections.length, 64);
});

test('one who is refused and does not close its socket loses it', async (t) => {
  const { server } = await startServer(t);
  const socket = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  socket.write('GET /other HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  socket.resume();
  await once(socket, 'end'); // refused; this side stays open
  socket.write(new Uint8Array(16 * MEGABYTE)); // more than is taken on the way
  await once(socket, 'error'); // a reset: nothing there is open any more
  t.pass();
});

test('a peer that sends and never reads is closed before the answers to it fill the memory', async (t) => {
  const started = await startServer(t, { maxMessagesPerSecond: 1_000_000 });
  const { url, server, messages, ends } = started;
  const admit = started.onMessage;
  started.onMessage = (connection, message) => {
    if (message.kind === 'hello') return admit(connection, message);
    connection.send({ kind: 'stepRejected', step: 1, reason: 'x'.repeat(2_000) });
  };
  const trainer = await connectRaw(t, url);
  trainer.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  trainer.webSocket.pause();
  const heartbeat = encodeEnvelope(sampleOf('heartbeat'));
  const flood = (): void => {
    if (!connection.isOpen) return;
    for (let i = 0; i < 500; i++) trainer.webSocket.send(heartbeat);
    setImmediate(flood);
  };
  flood();
  const end = await ends.take();
  t.is(end.code, CLOSE_CODES.TIMEOUT.code);
  t.regex(end.reason, /^it reads nothing: \d+ bytes wait for it, allowed: \d+$/);
  t.deepEqual(server.connections, []);
});

test('a port in use or an address that is not here is an OperatingError that says what to do', async (t) => {
  const { server } = await startServer(t);
  const listen = (options: Partial<ServerOptions>) =>
    CoordinatorServer.listen(
      {
        host: '127.0.0.1',
        port: 0,
        handshakeTimeoutMs: 1000,
        heartbeatIntervalMs: 1000,
        heartbeatTimeoutMs: 5000,
        logger: SILENT_LOGGER,
        ...options,
      },
      { onMessage() {}, onClose() {}, onFatal() {} },
    );
  const inUse = await t.throwsAsync(listen({ port: server.port }), { instanceOf: OperatingError });
  t.is(
    inUse?.message,
    `cannot listen on 127.0.0.1:${server.port}: another program uses this port; stop it or set coordinator.port (0 picks a free one)`,
  );
  const elsewhere = await t.throwsAsync(listen({ host: '192.0.2.1' }), { instanceOf: OperatingError });
  t.regex(elsewhere?.message ?? '', /192\.0\.2\.1 is no address of this machine; set coordinator\.host/);
});

test('close says goodbye to everyone and leaves no timer behind', async (t) => {
  const { url, server, messages } = await startServer(t);
  const trainers = await Promise.all([1, 2, 3].map(() => connectRaw(t, url)));
  trainers.forEach((trainer, index) => trainer.send({ ...HELLO, trainerId: `t${index}` }));
  for (const _ of trainers) await expectMessage(messages, 'hello');
  await server.close();
  for (const trainer of trainers) t.is((await trainer.closed).code, CLOSE_CODES.COORDINATOR_STOPPING.code);
  t.deepEqual(server.connections, []);
  await t.throwsAsync(connectRaw(t, url));
  await server.close();
});

/** What a WebSocket handshake is answered with that is not let in. */
async function refusalOf(port: number): Promise<{ status: number; text: string }> {
  const headers = {
    connection: 'Upgrade',
    upgrade: 'websocket',
    'sec-websocket-version': '13',
    'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
  };
  const outgoing = request({ host: '127.0.0.1', port, headers, agent: false });
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  return { status: response.statusCode ?? 0, text: await text(response) };
}

/** Status of a GET. */
async function statusOf(port: number, path: string, headers: Record<string, string> = {}): Promise<number> {
  const outgoing = request({ host: '127.0.0.1', port, path, headers, agent: false });
  outgoing.end();
  const [response] = (await once(outgoing, 'response')) as [{ statusCode: number; resume(): void }];
  response.resume();
  return response.statusCode;
}
