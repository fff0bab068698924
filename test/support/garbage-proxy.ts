/**
 * A trainer that sends garbage which looks honest: its connection goes through a proxy that decodes every tensor of a
 * contribution and of a sketch, replaces the numbers, encodes them again and mends the checksum. What goes the other way,
 * and everything else (losses, factors, snapshots), passes as it is. Any trainer can be on the other side.
 */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import type { ExecutionContext } from 'ava';
import { WebSocket, WebSocketServer, type RawData } from 'ws';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { Message, PartMessage } from '../../src/protocol/messages.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { derive, randomNormal } from '../../src/random.ts';

/** Scaled by 100, with the other sign, both, or Gaussian noise a hundred times as large. */
export const GARBAGE = ['scaled', 'flipped', 'opposed', 'random'] as const;
export type Garbage = (typeof GARBAGE)[number];

const MAX_FRAME_BYTES = 64 * 1024 * 1024;

/** Replaces numbers in place. */
export function garble(kind: Garbage, values: Float32Array, ...labels: (string | number)[]): void {
  const key = derive(13, kind, ...labels);
  const size = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / Math.max(1, values.length));
  values.forEach((x, i) => {
    if (kind === 'scaled') values[i] = 100 * x;
    else if (kind === 'flipped') values[i] = -x;
    else if (kind === 'opposed') values[i] = -100 * x;
    else values[i] = 100 * size * randomNormal(key, i);
  });
}

/** What one trainer sends, message by message. */
export class Garbler {
  readonly #kind: Garbage;
  /** Of each stream the tensor that is half there. */
  readonly #halves = new Map<string, Uint8Array>();
  #checksum = 0;
  /** Tensors that were replaced. */
  count = 0;

  constructor(kind: Garbage) {
    this.#kind = kind;
  }

  /** What goes on in the place of a message; nothing as long as the tensor is not whole. */
  take(message: Message): readonly Message[] {
    if (message.kind === 'contribution') {
      const mended = { ...message, checksum: message.tokens === 0 ? message.checksum : this.#checksum };
      this.#checksum = 0;
      return [mended];
    }
    if (message.kind !== 'part') return [message];
    if (message.stream !== 'contribution' && message.stream !== 'sketch') return [message];
    return this.#takePart(message);
  }

  /** A new step is assigned: what was sent of the last one does not count. */
  reset(): void {
    this.#checksum = 0;
  }

  #takePart(part: PartMessage): readonly Message[] {
    const { stream, step, round, tensor, codec, offset, totalBytes, payload } = part;
    const bytes = offset === 0 ? new Uint8Array(totalBytes) : this.#halves.get(stream)!;
    this.#halves.set(stream, bytes);
    bytes.set(payload, offset);
    if (offset + payload.length < totalBytes) return [];
    this.#halves.delete(stream);
    const numbers = codecFor(codec).decode(bytes, countOf(part));
    garble(this.#kind, numbers, stream, step, round, tensor);
    this.count++;
    const garbage = codecFor(codec).encode(numbers, derive(14, step, tensor));
    const parts = [...splitIntoParts({ stream, step, round, tensor, codec }, garbage)];
    if (stream === 'contribution') {
      this.#checksum = parts.reduce((crc, each) => crc32c(each.payload, crc), this.#checksum);
    }
    return parts;
  }
}

/** Numbers of an encoded tensor; of int4, whose last half byte may be empty, nobody can say. */
function countOf({ codec, totalBytes }: PartMessage): number {
  switch (codec) {
    case 'f32':
      return totalBytes / 4;
    case 'bf16':
      return totalBytes / 2;
    case 'int8':
      return totalBytes - 4 * Math.ceil(totalBytes / 260); // a scale for every 256
    default:
      throw new Error(`garbage in ${codec} is not made here`);
  }
}

/** Starts a proxy before the coordinator at `url`; a trainer that is given its address sends garbage. */
export async function garbageProxy(
  t: Pick<ExecutionContext, 'teardown'>,
  url: string,
  kind: Garbage,
): Promise<{ readonly url: string; readonly replaced: () => number }> {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: MAX_FRAME_BYTES });
  await once(server, 'listening');
  const garblers: Garbler[] = [];
  server.on('connection', (trainer) => {
    const garbler = new Garbler(kind);
    garblers.push(garbler);
    connect(trainer, new WebSocket(url, { maxPayload: MAX_FRAME_BYTES, perMessageDeflate: false }), garbler);
  });
  t.teardown(() => {
    for (const client of server.clients) client.terminate();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `ws://127.0.0.1:${port}/`,
    replaced: () => garblers.reduce((sum, { count }) => sum + count, 0),
  };
}

function connect(trainer: WebSocket, coordinator: WebSocket, garbler: Garbler): void {
  const waiting: Uint8Array[] = [];
  const toCoordinator = (frame: Uint8Array): void => {
    if (coordinator.readyState === WebSocket.CONNECTING) waiting.push(frame);
    else if (coordinator.readyState === WebSocket.OPEN) coordinator.send(frame);
  };
  trainer.on('message', (data: RawData) => {
    for (const message of garbler.take(decodeEnvelope(data as Buffer, 'trainer'))) {
      toCoordinator(encodeEnvelope(message));
    }
  });
  coordinator.on('open', () => waiting.splice(0).forEach((frame) => coordinator.send(frame)));
  coordinator.on('message', (data: RawData) => {
    const frame = data as Buffer;
    if (decodeEnvelope(frame, 'coordinator').kind === 'stepAssignment') garbler.reset();
    if (trainer.readyState === WebSocket.OPEN) trainer.send(frame);
  });
  const closeOther = (other: WebSocket) => (code: number, reason: Buffer) => {
    if (code >= 3000 || code === 1000) other.close(code, reason);
    else other.terminate();
  };
  trainer.on('close', closeOther(coordinator));
  coordinator.on('close', closeOther(trainer));
  for (const socket of [trainer, coordinator]) socket.on('error', () => socket.terminate());
}
