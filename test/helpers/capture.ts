/** A proxy between a trainer and its coordinator that keeps every byte the trainer sends, unmasked. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { connect as connectTls, createServer as createTlsServer } from 'node:tls';
import type { ExecutionContext } from 'ava';

/** PEM texts: what the proxy shows to trainers, and whom it trusts at the coordinator. */
export interface CaptureTls {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

export interface Capture {
  readonly url: string;
  /** The bytes of all connections: as they are on the wire (inside TLS), and the payloads of the WebSocket frames in them. */
  bytes(): Uint8Array;
}

/** Listens in front of `target`. @param tls with it the proxy ends TLS and begins it anew, as who could break it would */
export async function capture(
  t: ExecutionContext,
  target: string,
  tls: CaptureTls | null = null,
): Promise<Capture> {
  const { hostname, port } = new URL(target);
  const taken: Buffer[][] = [];
  const sockets = new Set<Socket>();
  const onConnection = (inner: Socket): void => {
    const chunks: Buffer[] = [];
    taken.push(chunks);
    const address = { host: hostname, port: Number(port) };
    const outer = tls === null ? connect(address) : connectTls({ ...address, ca: tls.ca });
    for (const socket of [inner, outer]) {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
    }
    inner.on('data', (chunk: Buffer) => chunks.push(chunk));
    inner.pipe(outer).pipe(inner);
  };
  const server: Server =
    tls === null
      ? createServer(onConnection)
      : createTlsServer({ cert: tls.cert, key: tls.key }, onConnection);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    url: `${tls === null ? 'ws' : 'wss'}://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    bytes: () => Buffer.concat(taken.flatMap((chunks) => [...chunks, payloadsOf(Buffer.concat(chunks))])),
  };
}

/** The payloads of the frames behind the HTTP request, with the client's mask taken off (RFC 6455, 5.2). */
export function payloadsOf(stream: Buffer): Buffer {
  const payloads: Buffer[] = [];
  let at = stream.indexOf('\r\n\r\n') + 4;
  while (at >= 4 && at + 2 <= stream.length) {
    const isMasked = (stream[at + 1]! & 0x80) !== 0;
    const short = stream[at + 1]! & 0x7f;
    const header = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (at + header + 4 > stream.length) break;
    const length =
      short < 126
        ? short
        : short === 126
          ? stream.readUInt16BE(at + 2)
          : Number(stream.readBigUInt64BE(at + 2));
    const from = at + header + (isMasked ? 4 : 0);
    const payload = Buffer.from(stream.subarray(from, from + length));
    if (isMasked) {
      const mask = stream.subarray(from - 4, from);
      for (let i = 0; i < payload.length; i++) payload[i]! ^= mask[i % 4]!;
    }
    payloads.push(payload);
    at = from + length;
  }
  return Buffer.concat(payloads);
}
