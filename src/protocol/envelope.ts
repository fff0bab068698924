/**
 * Messages to bytes and back. Pure. Decoding trusts nothing: whatever is wrong with a frame becomes a
 * ProtocolError with a close code and the name of the field, never any other error.
 */
import type { Message, Peer } from './messages.ts';

/**
 * The frame of a message.
 * @throws RangeError if the message breaks a limit of limits.ts: a bug of ours, not of a peer.
 */
export function encodeEnvelope(message: Message): Uint8Array {
  throw new Error(`not written yet: ${message.kind}`);
}

/**
 * The message in a frame sent by `from`. Part payloads and all other bytes are views into `frame`;
 * token arrays are copies.
 * @throws ProtocolError with MALFORMED_MESSAGE or UNEXPECTED_MESSAGE
 */
export function decodeEnvelope(frame: Uint8Array, from: Peer): Message {
  throw new Error(`not written yet: ${frame.length} ${from}`);
}
