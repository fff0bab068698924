/** TLS at the coordinator's door, as a Link and as a stranger see it. */
import { once } from 'node:events';
import { get } from 'node:https';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import test, { type ExecutionContext } from 'ava';
import type { PemTexts } from '../../src/files/pem.ts';
import type { ServerOptions } from '../../src/coordinator/server.ts';
import { closeReasonOf, type CloseReason } from '../../src/protocol/close-codes.ts';
import { MAX_HANDSHAKE_BYTES } from '../../src/protocol/limits.ts';
import { addressesOf } from '../../src/trainer/addresses.ts';
import { Line } from '../../src/trainer/line.ts';
import { pair, pem, pemPath } from '../helpers/tls.ts';
import {
  connectRaw,
  expectMessage,
  HELLO,
  openLink,
  SIZES,
  snapshotFrames,
  startServer,
} from '../support/wire.ts';

const CA = { ca: pem('ca') };

/** How a connection of a trainer that is refused for good ends. It says Hello as soon as it can. */
async function refusal(
  t: ExecutionContext,
  server: Partial<ServerOptions>,
  tls: PemTexts,
  scheme: 'ws' | 'wss' = 'wss',
): Promise<{ reason: CloseReason | null; text: string }> {
  const { url, messages } = await startServer(t, server);
  const ended = await new Promise<{ code: number; text: string }>((resolve) => {
    const line = new Line(1, addressesOf([url.replace(/^wss?/, scheme)])[0]!, tls, 5_000, {
      onOpen: () => line.outbox.send({ ...HELLO, token: 'secret' }),
      onFrame: () => {},
      onFlushed: () => {},
      onFramed: () => {},
      onSent: () => {},
      onClose: (_line, code, text) => resolve({ code, text }),
    });
  });
  t.deepEqual(messages.waiting, []);
  return { reason: closeReasonOf(ended.code), text: ended.text };
}

test('over TLS a trainer joins as without, and bytes are counted as they travel', async (t) => {
  const { url, messages } = await startServer(t, { tls: pair('server') });
  t.regex(url, /^wss:\/\/127\.0\.0\.1:\d+\/$/);
  const { link, nextOf } = openLink(t, url, { tls: { ca: pemPath('ca') } });
  const { connection } = await expectMessage(messages, 'hello');
  for (const message of snapshotFrames()) connection.send(message);
  await nextOf('connected');
  link.accept(SIZES);
  await nextOf('snapshotEnd');
  link.applied(0);
  await expectMessage(messages, 'ready');
  // The server's certificate alone is more than the messages.
  t.true(connection.bytesSent > 600 + 300, `${connection.bytesSent}`);
  t.true(connection.bytesReceived > 500, `${connection.bytesReceived}`);
});

test('a trainer refuses a certificate that is signed by a stranger, is for another host, or has expired', async (t) => {
  const cases: [string, RegExp][] = [
    ['stranger', /is signed by nobody this machine trusts; if it is the right one, give --ca FILE/],
    ['other-host', /is not for 127\.0\.0\.1 but for train\.example\.org: connect by a name it is for/],
    ['expired', /has expired: whoever runs the coordinator must renew it/],
  ];
  for (const [name, said] of cases) {
    const { reason, text: why } = await refusal(t, { tls: pair(name) }, CA);
    t.is(reason, 'BAD_CERTIFICATE', name);
    t.regex(why, said);
  }
  // Without --ca the authorities of the system count.
  t.is((await refusal(t, { tls: pair('server') }, {})).reason, 'BAD_CERTIFICATE');
});

test('who comes without TLS to a coordinator that speaks it tells it nothing, and hears why', async (t) => {
  const { reason, text: why } = await refusal(t, { tls: pair('server') }, {}, 'ws');
  t.is(reason, 'TLS_MISMATCH');
  t.regex(why, /speaks only TLS, and nothing was told to it: use wss:\/\/127\.0\.0\.1:\d+$/);
});

test('the answer to plain HTTP is 426, and to what is neither the same', async (t) => {
  const { server } = await startServer(t, { tls: pair('server') });
  for (const first of ['GET / HTTP/1.1\r\n\r\n', '\u0000\u0001\u0002']) {
    const socket = connect(server.port, '127.0.0.1');
    socket.write(first);
    const answer = await text(socket);
    t.true(answer.startsWith('HTTP/1.1 426 Upgrade Required\r\n'), answer);
    t.true(answer.endsWith('this coordinator speaks only TLS: use wss://\n'));
  }
});

test('who comes with TLS to a coordinator without hears so', async (t) => {
  const { reason, text: why } = await refusal(t, {}, CA);
  t.is(reason, 'TLS_MISMATCH');
  t.regex(why, /there is no TLS at 127\.0\.0\.1:\d+: .* use ws:\/\//);
});

test('with an authority for trainers, who has no certificate of it is closed with BAD_CERTIFICATE', async (t) => {
  const tls = { ...pair('server'), ca: pem('ca') };
  const texts = new Set<string>();
  for (const certificate of [{}, pair('stranger'), pair('expired')]) {
    const { reason, text: why } = await refusal(t, { tls }, { ...CA, ...certificate });
    t.is(reason, 'BAD_CERTIFICATE');
    texts.add(why);
  }
  t.deepEqual([...texts], ['this coordinator takes only those with a certificate of its own authority']);
  const { url, messages, server } = await startServer(t, { tls });
  (await connectRaw(t, url, { ...CA, ...pair('trainer') })).send(HELLO);
  t.is((await expectMessage(messages, 'hello')).message.trainerId, 'a');
  const [response] = (await once(get({ port: server.port, ca: pem('ca'), agent: false }), 'response')) as [
    NodeJS.ReadableStream & { statusCode: number },
  ];
  t.is(response.statusCode, 403);
  await text(response);
});

test('new certificates are for new connections; those that are open stay', async (t) => {
  const { url, messages, server } = await startServer(t, { tls: pair('server') });
  const options = { ca: pem('ca') };
  const before = await connectRaw(t, url, options);
  before.send(HELLO);
  const { connection } = await expectMessage(messages, 'hello');
  const serialOf = ({ webSocket }: typeof before): string => {
    const { _socket: socket } = webSocket as unknown as { _socket: import('node:tls').TLSSocket };
    return socket.getPeerCertificate().subject.CN as string;
  };
  t.is(serialOf(before), 'galore test server');
  server.renewCertificates(pair('renewed'));
  const after = await connectRaw(t, url, options);
  t.is(serialOf(after), 'galore test renewed');
  t.true(connection.isOpen);
  before.send({ kind: 'heartbeat', activity: 'x', residentBytes: 0, tensorCount: 0, tokensPerSecond: 0 });
  await expectMessage(messages, 'heartbeat');
});

test('one who says nothing, or stops in the middle of TLS, is gone after the handshake timeout', async (t) => {
  const { server } = await startServer(t, { tls: pair('server'), handshakeTimeoutMs: 100 });
  for (const first of [null, Buffer.from([0x16, 3, 1])]) {
    const socket = connect(server.port, '127.0.0.1');
    if (first !== null) socket.write(first);
    socket.resume();
    socket.on('error', () => {}); // a reset is an end, too
    await new Promise<void>((resolve) => socket.once('close', () => resolve()));
  }
  t.pass();
});

test('before its Hello is accepted nobody may send more than a few messages take', async (t) => {
  for (const tls of [null, pair('server')]) {
    const { url } = await startServer(t, { tls });
    const trainer = await connectRaw(t, url, { ca: pem('ca') });
    trainer.webSocket.send(new Uint8Array(8 * MAX_HANDSHAKE_BYTES));
    const { code, reason } = await trainer.closed;
    t.is(code, 4007);
    t.regex(reason, new RegExp(`^bytes before the Welcome: \\d+, allowed: ${MAX_HANDSHAKE_BYTES}$`));
  }
});

test('the door for trainers of this machine speaks no TLS, at an address of its own', async (t) => {
  const { server, messages } = await startServer(t, { tls: pair('server'), hasLocalDoor: true });
  t.regex(server.localUrl, /^ws:\/\/127\.0\.0\.1:\d+\/$/);
  t.not(new URL(server.localUrl).port, String(server.port));
  const trainer = await connectRaw(t, server.localUrl);
  trainer.send(HELLO);
  await expectMessage(messages, 'hello');
  const without = await startServer(t);
  t.is(without.server.localUrl, without.url);
});
