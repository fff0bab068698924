/** The codecs by name and by slot; their numbers on the wire are in protocol/enums.ts. */
import { ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import { momentsIn, tensorLength, type Slot } from '../slot.ts';
import { bf16Codec } from './bf16.ts';
import { f32Codec } from './f32.ts';
import { int4Codec } from './int4.ts';
import { int8Codec } from './int8.ts';
import type { CodecName, TensorCodec } from './tensor-codec.ts';

export type { CodecName, TensorCodec, TensorReader } from './tensor-codec.ts';

/** Payloads of fewer numbers than a block of int8 travel as f32 whatever is configured. */
const MIN_QUANTISED_COUNT = 256;

const CODECS: Readonly<Record<CodecName, TensorCodec>> = {
  f32: f32Codec,
  bf16: bf16Codec,
  int8: int8Codec,
  int4: int4Codec,
};

/** Every codec of numbers. */
export const CODEC_NAMES = Object.keys(CODECS) as readonly CodecName[];

/**
 * The codec of a name.
 * @throws ProtocolError MALFORMED_MESSAGE for `u8`: bytes of a snapshot, not numbers
 */
export function codecFor(name: CodecName | 'u8'): TensorCodec {
  if (name === 'u8') throw new ProtocolError(CLOSE_CODES.MALFORMED_MESSAGE.code, 'u8 is no codec of numbers');
  return CODECS[name];
}

/**
 * The codec that a slot's tensor of a contribution or an update of step `step` travels in. Vectors, the weights of
 * norms above all, are f32: they weigh nothing, and one of their numbers decides about a whole row of activations.
 * Behind moments there is none of blocks: beside great numbers of its block a second moment would be rounded to zero,
 * and its root is divided by.
 */
export function codecOfPayload(slot: Slot, step: number, configured: CodecName): CodecName {
  if (slot.shape.length < 2 || tensorLength(slot, step) < MIN_QUANTISED_COUNT) return 'f32';
  const hasMoments = momentsIn(slot, step).length > 0;
  return hasMoments && configured !== 'f32' ? slot.averaged!.codec : configured;
}
