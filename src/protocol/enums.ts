/** The enums of galore.proto by our names. Pure. */
import { galore } from '#messages';
import type { CodecName, PartCodec, StateCodec, StreamName } from './messages.ts';

const { Codec, Stream } = galore.v1;

export const STREAM_NUMBERS = {
  snapshot: Stream.STREAM_SNAPSHOT,
  sketch: Stream.STREAM_SKETCH,
  sketchSum: Stream.STREAM_SKETCH_SUM,
  factor: Stream.STREAM_FACTOR,
  contribution: Stream.STREAM_CONTRIBUTION,
  update: Stream.STREAM_UPDATE,
  basis: Stream.STREAM_BASIS,
} as const satisfies Record<StreamName, number>;

/** Codecs of the streams whose tensors are numbers: all but SNAPSHOT. */
export const NUMBER_CODECS = {
  f32: Codec.CODEC_F32,
  bf16: Codec.CODEC_BF16,
  int8: Codec.CODEC_INT8,
  int4: Codec.CODEC_INT4,
} as const satisfies Record<CodecName, number>;

/** Codecs of stream SNAPSHOT. */
export const STATE_CODECS = {
  f32: Codec.CODEC_F32,
  u8: Codec.CODEC_U8,
} as const satisfies Record<StateCodec, number>;

export const CODEC_NUMBERS: Readonly<Record<PartCodec, number>> = { ...NUMBER_CODECS, ...STATE_CODECS };
