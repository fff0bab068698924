/** From a slot's payload to the bytes of its contribution. */
import type * as tf from '@tensorflow/tfjs-core';
import { codecFor, codecOfPayload, type CodecName } from '../galore/codec/codec.ts';
import type { Slot } from '../galore/slot.ts';
import type { SlotCodecs } from '../protocol/slot-sizes.ts';
import { derive } from '../random.ts';

/** What decides the bytes beside the numbers. */
export interface EncodingTask {
  readonly step: number;
  readonly seed: number;
  readonly trainerId: string;
  /** Slots whose payload is sent as f32, so that no feedback of it is left. */
  readonly flushSlots: readonly number[];
  /** By slot index. */
  readonly codecs: readonly SlotCodecs[];
}

export interface EncodedPayload {
  readonly codec: CodecName;
  readonly bytes: Uint8Array;
}

/** Encodes a payload, which stays the caller's, into memory of `allocate`, or new memory. */
export function encodePayload(
  { seed, trainerId, step, codecs, flushSlots }: EncodingTask,
  slot: Slot,
  payload: tf.Tensor,
  allocate?: (byteLength: number) => Uint8Array,
): EncodedPayload {
  const values = payload.dataSync<'float32'>() as Float32Array;
  const isFlushed = flushSlots.includes(slot.index);
  const codec = isFlushed ? 'f32' : codecOfPayload(values.length, codecs[slot.index]!.contribution);
  const key = derive(seed, 'contribution', trainerId, step, slot.index);
  const tensorCodec = codecFor(codec);
  const bytes = tensorCodec.encode(values, key, allocate?.(tensorCodec.encodedBytes(values.length)));
  return { codec, bytes };
}
