/**
 * A trainer that computes nothing: it joins a run as one that has been there before, answers every step with the
 * contribution it was made with, and reads of what comes only what it must. Many of them cost one process little,
 * so that a coordinator can be measured. It checks neither digests nor numbers. SHELL.
 *
 * The WebSocket is written out here because ws masks what it sends anew for each socket; here all trainers send the
 * same masked frames.
 */
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { CODEC_NAMES, codecFor } from '../galore/codec/codec.ts';
import { payloadShape, sizeOf, travels } from '../galore/slot.ts';
import { crc32c } from '../protocol/crc32c.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import { decodeEnvelope, encodeEnvelope } from '../protocol/envelope.ts';
import type { Message, PartMessage, WelcomeMessage } from '../protocol/messages.ts';
import { splitIntoParts } from '../protocol/parts.ts';
import { payloadSize, type SlotSizes } from '../protocol/slot-sizes.ts';
import { PROTOCOL_VERSIONS } from '../protocol/version.ts';
import { derive, randomUniform } from '../random.ts';

/** Messages above this are Parts, which are passed over unread. */
const MAX_READ_BYTES = 64 * 1024;
/** What one read takes from a socket at most. */
const READ_BYTES = 256 * 1024;
/** Each byte of the mask: so a payload is masked in the same way wherever in a frame it stands. */
const MASK = randomInt(1, 256);
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
/** Says that a handshake was understood: RFC 6455, 1.3. */
const WEB_SOCKET_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

/** The contribution of random numbers that all light trainers of a run send in every step. */
export class SharedContribution {
  readonly #parts: readonly SharedPart[];
  readonly #tokens: number;
  readonly #checksum: number;
  #step = 0;
  #frames: readonly Uint8Array[] = [];

  /** @param tokens that each trainer is given in a step */
  constructor(sizes: readonly SlotSizes[], tokens: number) {
    this.#tokens = tokens;
    // In the order of backward, as a trainer sends them.
    const travelling = sizes.filter(({ slot }) => travels(slot)).toReversed();
    this.#parts = travelling.flatMap((each) => [...partsOf(each)]);
    this.#checksum = this.#parts.reduce((crc, { part }) => crc32c(part.payload, crc), 0);
  }

  /** What goes through a socket in a step; not to be changed. */
  framesOf(step: number): readonly Uint8Array[] {
    if (step === this.#step) return this.#frames;
    const tokens = this.#tokens;
    const end = encodeEnvelope({
      kind: 'contribution',
      step,
      tokens,
      lossSum: tokens,
      checksum: this.#checksum,
    });
    const frames = this.#parts.flatMap(({ part, maskedPayload }) => {
      const frame = encodeEnvelope({ ...part, step });
      // The payload is the last field, and what it is masked to does not depend on where it stands.
      const head = frame.subarray(0, frame.length - maskedPayload.length);
      return [maskedFrame(BINARY, head, maskedPayload.length), maskedPayload];
    });
    this.#frames = [...frames, maskedFrame(BINARY, end)];
    this.#step = step;
    return this.#frames;
  }
}

/** A Part but for its step. */
interface SharedPart {
  readonly part: PartMessage;
  readonly maskedPayload: Uint8Array;
}

function* partsOf(sizes: SlotSizes): Generator<SharedPart> {
  const { codec } = payloadSize(sizes, 'contribution', 1);
  const header = { stream: 'contribution', step: 1, round: 0, tensor: sizes.slot.index, codec } as const;
  for (const part of splitIntoParts(header, randomPayload(sizes))) {
    yield { part, maskedPayload: part.payload.map((byte) => byte ^ MASK) };
  }
}

export interface LightTrainerOptions {
  readonly url: string;
  readonly trainerId: string;
  /** Of the run whose state it claims to hold; null: it asks for a snapshot. */
  readonly runId: string | null;
  /** null: it answers no step. */
  readonly contribution: SharedContribution | null;
  readonly onWelcome: (welcome: WelcomeMessage) => void;
  /** The connection has ended, which it should not before `close`. */
  readonly onEnd: (reason: string) => void;
}

export class LightTrainer {
  readonly #options: LightTrainerOptions;
  readonly #socket: Socket;
  readonly #reader: MessageReader;
  #heartbeat: NodeJS.Timeout | null = null;
  #handshake: Buffer | null = Buffer.alloc(0);
  #lastWords = 'the connection ended';

  constructor(options: LightTrainerOptions) {
    this.#options = options;
    this.#reader = new MessageReader((opcode, payload) => this.#receive(opcode, payload));
    const { hostname, port, host } = new URL(options.url);
    const key = randomBytes(16).toString('base64');
    const onread = {
      buffer: Buffer.allocUnsafe(READ_BYTES),
      callback: (n: number, bytes: Uint8Array) => take(n, bytes),
    };
    const take = (length: number, bytes: Uint8Array): boolean => {
      const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, length);
      const rest = this.#handshake === null ? chunk : this.#shakeHands(key, chunk);
      if (rest.length > 0) this.#reader.take(rest);
      return true;
    };
    this.#socket = connect({ host: hostname, port: Number(port), noDelay: true, onread });
    this.#socket.on('error', (error) => (this.#lastWords = error.message));
    this.#socket.once('close', () => {
      if (this.#heartbeat !== null) clearInterval(this.#heartbeat);
      this.#options.onEnd(`${options.trainerId}: ${this.#lastWords}`);
    });
    this.#socket.write(
      `GET / HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
    );
  }

  close(): void {
    this.#socket.destroy();
  }

  /** Returns what came behind the answer to the upgrade. */
  #shakeHands(key: string, chunk: Buffer): Buffer {
    const answer = Buffer.concat([this.#handshake ?? Buffer.alloc(0), chunk]);
    const end = answer.indexOf('\r\n\r\n');
    this.#handshake = end < 0 ? answer : null;
    if (end < 0) return Buffer.alloc(0);
    const head = answer.toString('latin1', 0, end);
    const accept = createHash('sha1')
      .update(key + WEB_SOCKET_GUID)
      .digest('base64');
    if (!head.startsWith('HTTP/1.1 101 ') || !head.includes(accept)) {
      this.#lastWords = head.split('\r\n')[0] ?? '';
      this.close();
      return Buffer.alloc(0);
    }
    const { trainerId, runId } = this.#options;
    this.#send({
      kind: 'hello',
      protocolVersions: PROTOCOL_VERSIONS,
      trainerId,
      runName: '',
      token: '',
      software: 'galore bench',
      runId: runId ?? '',
      sequence: 0,
      digest: runId === null ? new Uint8Array() : FIRST_DIGEST,
      schemaHash: new Uint8Array(),
      codecs: CODEC_NAMES,
      snapshot: null,
    });
    return answer.subarray(end + 4);
  }

  #receive(opcode: number, payload: Buffer): void {
    if (opcode === PING) this.#socket.write(maskedFrame(PONG, payload));
    if (opcode === CLOSE) this.close();
    if (opcode === BINARY) this.#answer(decodeEnvelope(payload, 'coordinator'));
  }

  #answer(message: Message): void {
    const { contribution, onWelcome } = this.#options;
    switch (message.kind) {
      case 'welcome':
        this.#heartbeat = setInterval(() => this.#sendHeartbeat(), message.heartbeatIntervalMs);
        if (message.snapshot === null) this.#sendReady(0);
        return onWelcome(message);
      case 'stepAssignment':
        if (contribution === null) return;
        this.#socket.cork();
        for (const frame of contribution.framesOf(message.step)) this.#socket.write(frame);
        this.#socket.uncork();
        return;
      case 'commit':
        return this.#sendReady(message.sequence);
      case 'goodbye':
        this.#lastWords = message.reason;
        return;
      default:
        return; // nothing to do with it
    }
  }

  #sendReady(sequence: number): void {
    this.#send({ kind: 'ready', sequence, device: 'none' });
  }

  #sendHeartbeat(): void {
    this.#send({
      kind: 'heartbeat',
      activity: 'light',
      residentBytes: 0,
      tensorCount: 0,
      tokensPerSecond: 0,
    });
  }

  #send(message: Message): void {
    this.#socket.write(maskedFrame(BINARY, encodeEnvelope(message)));
  }
}

/** Messages out of the bytes of a socket, without those that are too long to be of interest. */
export class MessageReader {
  readonly #onMessage: (opcode: number, payload: Buffer) => void;
  /** What of a head, or of a message that is read, has come so far. */
  #held: Buffer = Buffer.alloc(0);
  /** Bytes of a message that are passed over. */
  #skipBytes = 0;

  constructor(onMessage: (opcode: number, payload: Buffer) => void) {
    this.#onMessage = onMessage;
  }

  /** The chunk may be used again when this returns. */
  take(chunk: Buffer): void {
    const skipped = Math.min(this.#skipBytes, chunk.length);
    this.#skipBytes -= skipped;
    let bytes: Buffer = chunk.subarray(skipped);
    if (this.#held.length > 0) bytes = Buffer.concat([this.#held, bytes]);
    let at = 0;
    for (;;) {
      const frame = headOf(bytes, at);
      if (frame === null) break;
      const start = at + frame.headBytes;
      const end = start + frame.payloadBytes;
      if (frame.payloadBytes <= MAX_READ_BYTES) {
        if (end > bytes.length) break;
        this.#onMessage(frame.opcode, bytes.subarray(start, end));
      }
      this.#skipBytes = Math.max(0, end - bytes.length);
      at = Math.min(end, bytes.length);
    }
    this.#held = at === bytes.length ? EMPTY : Buffer.from(bytes.subarray(at));
  }
}

const EMPTY = Buffer.alloc(0);

interface FrameHead {
  readonly opcode: number;
  readonly headBytes: number;
  readonly payloadBytes: number;
}

/** The head of a frame of a server, which masks nothing and here splits nothing; null while it is not whole. */
function headOf(bytes: Buffer, at: number): FrameHead | null {
  if (bytes.length < at + 2) return null;
  const opcode = bytes[at]! & 0x0f;
  const short = bytes[at + 1]!;
  const headBytes = short === 127 ? 10 : short === 126 ? 4 : 2;
  if (bytes.length < at + headBytes) return null;
  const payloadBytes =
    short === 127
      ? Number(bytes.readBigUInt64BE(at + 2))
      : short === 126
        ? bytes.readUInt16BE(at + 2)
        : short;
  return { opcode, headBytes, payloadBytes };
}

/** The beginning of a masked frame, of which `restBytes` more follow. */
function maskedFrame(opcode: number, payload: Uint8Array, restBytes = 0): Buffer {
  const length = payload.length + restBytes;
  const lengthBytes = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const frame = Buffer.alloc(2 + lengthBytes + 4 + payload.length, MASK);
  frame[0] = 0x80 | opcode;
  frame[1] = 0x80 | (lengthBytes === 0 ? length : lengthBytes === 2 ? 126 : 127);
  if (lengthBytes === 2) frame.writeUInt16BE(length, 2);
  if (lengthBytes === 8) frame.writeBigUInt64BE(BigInt(length), 2);
  frame.set(
    payload.map((byte) => byte ^ MASK),
    6 + lengthBytes,
  );
  return frame;
}

/** Numbers around zero, encoded. */
function randomPayload(sizes: SlotSizes): Uint8Array {
  const { codec } = payloadSize(sizes, 'contribution', 1);
  const key = derive(0, 'light', sizes.slot.index);
  const values = Float32Array.from(
    { length: sizeOf(payloadShape(sizes.slot, 1)) },
    (_, i) => randomUniform(key, i) - 0.5,
  );
  return codecFor(codec).encode(values, key);
}
