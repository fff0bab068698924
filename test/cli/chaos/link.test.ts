// The link that `galore chaos` cuts, isolates and slows, with real sockets.
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { Link } from '../../../src/cli/chaos/link.ts';

interface Pair {
  readonly link: Link;
  readonly near: Socket;
  readonly far: Socket;
}

/** A connection through a link, to a server that keeps what comes. */
async function connected(t: ExecutionContext): Promise<Pair & { readonly again: () => Socket }> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const link = await Link.open();
  link.targetPort = (server.address() as AddressInfo).port;
  const sockets: Socket[] = [];
  const again = (): Socket => {
    const socket = connect({ port: Number(new URL(link.url).port), host: '127.0.0.1' });
    socket.on('error', () => {});
    sockets.push(socket);
    return socket;
  };
  const near = again();
  const [far] = (await once(server, 'connection')) as [Socket];
  far.on('error', () => {});
  t.teardown(() => {
    for (const socket of [...sockets, far]) socket.destroy();
    link.close();
    server.close();
  });
  return { link, near, far, again };
}

/** So many bytes of what comes. */
async function received(socket: Socket, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  while (length < bytes) {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    chunks.push(chunk);
    length += chunk.length;
  }
  return Buffer.concat(chunks);
}

/** Closed, in whatever way. */
function gone(socket: Socket): Promise<void> {
  return new Promise((resolve) => void socket.once('close', () => resolve()));
}

test('all bytes come through, both ways, in order, and an end after them', async (t) => {
  const { near, far } = await connected(t);
  const sent = Buffer.from(Uint8Array.from({ length: 3_000_000 }, (_, i) => i % 251));
  near.write(sent);
  t.true((await received(far, sent.length)).equals(sent));
  far.write('back');
  t.is((await received(near, 4)).toString(), 'back');
  const ended = once(far, 'end');
  near.end();
  await ended;
  t.pass();
});

test('a cut ends both sides and refuses whoever comes, until it is mended', async (t) => {
  const { link, near, far, again } = await connected(t);
  const closed = Promise.all([gone(near), gone(far)]);
  link.cut();
  await closed;
  await gone(again());
  link.mend();
  const socket = again();
  await once(socket, 'connect');
  socket.write('x');
  t.pass();
});

test('through an isolated link nothing comes, neither bytes nor an end; afterwards all does', async (t) => {
  const { link, near, far } = await connected(t);
  link.isolate();
  near.write('late');
  near.end();
  let isThere = false;
  far.once('data', () => (isThere = true));
  // Bytes that another link carries there and back show that time has passed.
  const other = await connected(t);
  for (let i = 0; i < 50; i++) {
    other.near.write('x');
    await received(other.far, 1);
  }
  t.false(isThere);
  const ended = once(far, 'end');
  const bytes = received(far, 4);
  link.mend();
  t.is((await bytes).toString(), 'late');
  await ended;
});

test('a slowed link delivers later, and in order', async (t) => {
  const { link, near, far } = await connected(t);
  link.delay(60);
  const startMs = performance.now();
  near.write('a');
  near.write('b');
  t.is((await received(far, 2)).toString(), 'ab');
  t.true(performance.now() - startMs >= 55);
});
