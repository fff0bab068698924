/** The codecs by name, by number on the wire, and by slot. */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import { f32Codec } from './f32.ts';
import { int8Codec } from './int8.ts';
import type { CodecName, TensorCodec } from './tensor-codec.ts';

export type { CodecName, TensorCodec, TensorReader } from './tensor-codec.ts';

/** Payloads of fewer numbers than this travel as f32 whatever is configured: they weigh nothing. */
export const MIN_QUANTISED_COUNT = 4096;

const CODECS: Readonly<Record<CodecName, TensorCodec>> = { f32: f32Codec, int8: int8Codec };

/** Values of `Codec` in proto/galore.proto. */
const WIRE_CODECS = { f32: 1, int8: 2 } as const satisfies Record<CodecName, number>;

/**
 * The codec of a name.
 * @throws ProtocolError MALFORMED_MESSAGE for `u8`: bytes of a snapshot, not numbers
 */
export function codecFor(name: CodecName | 'u8'): TensorCodec {
  if (name === 'u8') throw new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, 'u8 is no codec of numbers');
  return CODECS[name];
}

/** The codec that a payload of `count` numbers travels in. */
export function codecOfPayload(count: number, configured: CodecName): CodecName {
  return count < MIN_QUANTISED_COUNT ? 'f32' : configured;
}

/** The number of a codec in `Part.codec` and `TensorInfo.codec`. */
export function wireOfCodec(name: CodecName): 1 | 2 {
  return WIRE_CODECS[name];
}

/**
 * The codec of a number that came over the wire.
 * @throws ProtocolError MALFORMED_MESSAGE for one that this build does not know.
 */
export function codecOfWire(wire: number): CodecName {
  if (wire === WIRE_CODECS.f32) return 'f32';
  if (wire === WIRE_CODECS.int8) return 'int8';
  throw new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, `codec ${wire} is not known`);
}
