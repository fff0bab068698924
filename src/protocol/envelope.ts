/**
 * Messages to bytes and back. Pure. Decoding trusts nothing: whatever is wrong with a frame becomes a
 * ProtocolError with a close code and the name of the field, never any other error.
 */
import { galore } from '#messages';
import { protocolError } from './checks.ts';
import { DECODERS } from './decode.ts';
import { toEnvelope } from './encode.ts';
import { MAX_FRAME_BYTES } from './limits.ts';
import { MESSAGE_RULES, type Message, type MessageKind, type MessageRule, type Peer } from './messages.ts';
import { ProtocolError } from '../errors.ts';

const { Envelope } = galore.v1;

/**
 * The frame of a message.
 * @throws RangeError if it is longer than a frame may be: a bug of ours, not of a peer
 */
export function encodeEnvelope(message: Message): Uint8Array {
  const frame = Envelope.encode(toEnvelope(message)).finish();
  const { maxBytes } = MESSAGE_RULES[message.kind];
  if (frame.length > maxBytes) {
    throw new RangeError(`a ${message.kind} message has ${frame.length} bytes; the limit is ${maxBytes}`);
  }
  return frame;
}

/**
 * The message in a frame sent by `from`. The payload of a Part is a view into `frame`; everything
 * else is copied.
 * @throws ProtocolError MALFORMED_MESSAGE, UNEXPECTED_MESSAGE (not its sender's to send) or
 * INVALID_CONTRIBUTION (a loss that is not finite)
 */
export function decodeEnvelope(frame: Uint8Array, from: Peer): Message {
  if (frame.length > MAX_FRAME_BYTES) {
    throw protocolError(
      'MALFORMED_MESSAGE',
      `a message of ${frame.length} bytes; the limit is ${MAX_FRAME_BYTES}`,
    );
  }
  const envelope = readEnvelope(frame);
  const kind = envelope.body as MessageKind | undefined;
  if (kind === undefined || !Object.hasOwn(MESSAGE_RULES, kind)) {
    throw protocolError('MALFORMED_MESSAGE', `a message of ${frame.length} bytes without a known body`);
  }
  const { senders, maxBytes }: MessageRule = MESSAGE_RULES[kind];
  if (!senders.includes(from)) {
    throw protocolError('UNEXPECTED_MESSAGE', `a ${from} does not send ${kind}`);
  }
  if (frame.length > maxBytes) {
    throw protocolError('MALFORMED_MESSAGE', `${kind} has ${frame.length} bytes; the limit is ${maxBytes}`);
  }
  return decodeBody(kind, envelope, from);
}

function readEnvelope(frame: Uint8Array): InstanceType<typeof Envelope> {
  try {
    return Envelope.decode(frame);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw protocolError(
      'MALFORMED_MESSAGE',
      `a message of ${frame.length} bytes is no protobuf: ${reason}`,
      error,
    );
  }
}

function decodeBody(kind: MessageKind, envelope: InstanceType<typeof Envelope>, from: Peer): Message {
  // The table pairs every kind with the decoder of its own body; TypeScript cannot follow that through a union.
  const decode = DECODERS[kind] as (body: unknown, from: Peer) => Message;
  try {
    return decode(envelope[kind], from);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    throw new ProtocolError(error.closeCode, `${kind}: ${error.message}`, { cause: error });
  }
}
