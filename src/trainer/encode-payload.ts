/** From a slot's payload to the bytes of its contribution. */
import * as tf from '@tensorflow/tfjs-core';
import { codecFor, codecOfPayload, type CodecName } from '../galore/codec/codec.ts';
import { encodeRows } from '../galore/rows.ts';
import type { RowSparseSlot, Slot } from '../galore/slot.ts';
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
  const codec = isFlushed ? 'f32' : codecOfPayload(slot, step, codecs[slot.index]!.contribution);
  const key = derive(seed, 'contribution', trainerId, step, slot.index);
  const tensorCodec = codecFor(codec);
  const bytes = tensorCodec.encode(values, key, allocate?.(tensorCodec.encodedBytes(values.length)));
  return { codec, bytes };
}

/** Encodes rows of a whole gradient, which stays the caller's. @param rows ascending */
export function encodeRowsOf(
  { seed, trainerId, step, codecs }: EncodingTask,
  slot: RowSparseSlot,
  gradient: tf.Tensor,
  rows: Uint32Array,
  allocate?: (byteLength: number) => Uint8Array,
): EncodedPayload {
  const codec = codecOfPayload(slot, step, codecs[slot.index]!.contribution);
  const picked = tf.tidy(() => tf.gather(gradient, tf.tensor1d(Int32Array.from(rows), 'int32')));
  const values = picked.dataSync<'float32'>() as Float32Array;
  const key = derive(seed, 'contribution', trainerId, step, slot.index);
  const bytes = encodeRows(codec, rows, values, key, allocate);
  picked.dispose();
  return { codec, bytes };
}
