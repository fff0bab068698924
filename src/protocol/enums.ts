/** The enums of galore.proto by our names. Pure. */
import { galore } from '#messages';
import type { CodecName, StreamName } from './messages.ts';

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

export const CODEC_NUMBERS = {
  f32: Codec.CODEC_F32,
  int8: Codec.CODEC_INT8,
} as const satisfies Record<CodecName, number>;
