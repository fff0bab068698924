/**
 * How fast a codec is and how far off: for `galore bench codec`. Pure; the caller gives the clock, best one of
 * processor time, which other programs change little.
 */
import { encodeSum } from '../aggregate/mean.ts';
import { derive, randomNormal } from '../../random.ts';
import { codecFor, type CodecName } from './codec.ts';

/** What a codec was measured at. Rates are in 10^9 bytes of f32 a second. */
export interface CodecMeasurement {
  readonly codec: CodecName;
  readonly bytesPerNumber: number;
  readonly encodeGbPerSecond: number;
  readonly decodeGbPerSecond: number;
  /** Of a sum of two encoded tensors that is encoded again, as the coordinator does it: bytes of the two. */
  readonly sumGbPerSecond: number;
  /** |decoded - x| / |x| of Gaussian numbers. */
  readonly relativeError: number;
}

export interface CodecMeasureOptions {
  /** Numbers of the tensor. */
  readonly count: number;
  /** The shortest of so many is taken. */
  readonly repeats: number;
  /** Processor time so far in seconds. */
  readonly cpuSeconds: () => number;
}

/** Gaussian numbers: 65536 of them, again and again, because they take long to make. */
export function gaussianNumbers(count: number): Float32Array {
  const key = derive(1, 'bench codec');
  const period = Float32Array.from({ length: Math.min(count, 65_536) }, (_, i) => randomNormal(key, i));
  const values = new Float32Array(count);
  for (let start = 0; start < count; start += period.length) {
    values.set(period.subarray(0, count - start), start);
  }
  return values;
}

/** Measures one codec. */
export function measureCodec(name: CodecName, options: CodecMeasureOptions): CodecMeasurement {
  const { count } = options;
  const codec = codecFor(name);
  const values = gaussianNumbers(count);
  const key = derive(2, 'bench codec');
  const into = new Uint8Array(codec.encodedBytes(count));
  const out = new Float32Array(count);
  const bytes = codec.encode(values, key);
  const parts = [bytes, bytes].map((each) => ({ bytes: each, codec, weight: 0.5 }));
  return {
    codec: name,
    bytesPerNumber: bytes.length / count,
    encodeGbPerSecond: rate(4 * count, options, () => codec.encode(values, key, into)),
    decodeGbPerSecond: rate(4 * count, options, () => codec.decode(bytes, count, out)),
    sumGbPerSecond: rate(8 * count, options, () => encodeSum(parts, count, codec.writer(count, key, into))),
    relativeError: relativeError(values, codec.decode(bytes, count, out)),
  };
}

function rate(bytes: number, { repeats, cpuSeconds }: CodecMeasureOptions, work: () => void): number {
  let shortest = Infinity;
  work(); // compiles it
  for (let i = 0; i < repeats; i++) {
    const start = cpuSeconds();
    work();
    shortest = Math.min(shortest, cpuSeconds() - start);
  }
  return bytes / shortest / 1e9;
}

function relativeError(values: Float32Array, decoded: Float32Array): number {
  let error = 0;
  let norm = 0;
  for (let i = 0; i < values.length; i++) {
    error += (decoded[i]! - values[i]!) ** 2;
    norm += values[i]! ** 2;
  }
  return Math.sqrt(error / norm);
}
