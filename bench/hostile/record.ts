/** A proxy that writes down what a trainer sends: what attackers then change and send again. */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { WebSocket, WebSocketServer } from 'ws';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';

/** Of each kind of message, and of each stream of Parts. */
const MOST_OF_A_KIND = 40;

export interface Recorder {
  /** Where a trainer connects instead. */
  readonly url: string;
  readonly frames: readonly Uint8Array[];
  close(): void;
}

export async function startRecorder(coordinatorUrl: string): Promise<Recorder> {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false });
  await once(server, 'listening');
  const frames: Uint8Array[] = [];
  const counts = new Map<string, number>();
  const record = (frame: Buffer): void => {
    const message = decodeEnvelope(frame, 'trainer');
    const kind = message.kind === 'part' ? message.stream : message.kind;
    const count = (counts.get(kind) ?? 0) + 1;
    counts.set(kind, count);
    if (count <= MOST_OF_A_KIND) frames.push(Uint8Array.from(frame));
  };
  server.on('connection', (down) => {
    const up = new WebSocket(coordinatorUrl, { perMessageDeflate: false });
    down.pause();
    down.on('message', (frame: Buffer) => {
      record(frame);
      up.send(frame);
    });
    up.on('message', (frame: Buffer) => down.send(frame));
    up.on('close', () => down.terminate());
    down.on('close', () => up.terminate());
    for (const end of [up, down]) end.on('error', () => end.terminate());
    up.on('open', () => down.resume());
  });
  return {
    url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    frames,
    close: () => server.close(),
  };
}
