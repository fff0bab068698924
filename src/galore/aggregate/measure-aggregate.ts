/**
 * What each rule of aggregation costs the coordinator: for `galore bench aggregate`. Pure; the caller gives the
 * clock, best one of processor time.
 */
import { gaussianNumbers } from '../codec/measure-codec.ts';
import { codecFor, type CodecName } from '../codec/codec.ts';
import { chunk, CHUNK } from '../codec/kernels.ts';
import { derive } from '../../random.ts';
import { Distances } from './krum.ts';
import { openParts, squaredNormOfSum, type EncodedPart } from './mean.ts';
import { normBorder } from './norm-filter.ts';
import { aggregationOf } from './rules.ts';
import { AGGREGATION_RULES, type AggregationRule } from './tolerance.ts';

export interface AggregateMeasureOptions {
  readonly trainers: number;
  /** Numbers of the contribution of one trainer. */
  readonly numbers: number;
  /** Numbers of a tensor; a contribution is so many of them as it takes. */
  readonly tensorNumbers: number;
  readonly codec: CodecName;
  /** f of the rules that have one. */
  readonly byzantine: number;
  /** The shortest of so many is taken. */
  readonly repeats: number;
  readonly seconds: () => number;
}

export interface AggregateMeasurement {
  readonly rule: AggregationRule;
  /** Of a whole step, decoding included, encoding of the outcome not. */
  readonly milliseconds: number;
}

export interface AggregateCosts {
  /** Decoding every contribution once, and nothing else. */
  readonly decodeMilliseconds: number;
  readonly rules: readonly AggregateMeasurement[];
}

/** One tensor of all trainers. */
interface Tensor {
  readonly parts: readonly EncodedPart[];
  readonly count: number;
}

/** Measures every rule on the same numbers; every second trainer has them in the reverse order. */
export function measureAggregate(options: AggregateMeasureOptions): AggregateCosts {
  const tensors = tensorsOf(options);
  const shortest = (work: () => void): number => {
    let best = Infinity;
    for (let i = 0; i <= options.repeats; i++) {
      const start = options.seconds();
      work();
      if (i > 0) best = Math.min(best, options.seconds() - start); // the first one compiles it
    }
    return 1000 * best;
  };
  const decodeMilliseconds = shortest(() => tensors.forEach(decode));
  const rules = AGGREGATION_RULES.map((rule) => {
    return { rule, milliseconds: shortest(() => aggregate(rule, tensors, options)) };
  });
  return { decodeMilliseconds, rules };
}

function tensorsOf({ trainers, numbers, tensorNumbers, codec: name }: AggregateMeasureOptions): Tensor[] {
  const codec = codecFor(name);
  const tensors: Tensor[] = [];
  for (let left = numbers, index = 0; left > 0; left -= tensorNumbers, index++) {
    const count = Math.min(left, tensorNumbers);
    const values = gaussianNumbers(count);
    const turned = values.toReversed();
    const parts = Array.from({ length: trainers }, (_, trainer) => {
      const bytes = codec.encode(trainer % 2 === 0 ? values : turned, derive(3, index, trainer));
      return { bytes, codec, weight: 1 / trainers };
    });
    tensors.push({ parts, count });
  }
  return tensors;
}

function decode({ parts, count }: Tensor): void {
  const values = new Float32Array(chunk.values.length);
  const readers = openParts(parts, count);
  for (let start = 0; start < count; start += CHUNK) {
    for (const { reader } of readers) reader.read(start, Math.min(count, start + CHUNK), values);
  }
}

/** As the coordinator does it. */
function aggregate(
  rule: AggregationRule,
  tensors: readonly Tensor[],
  { trainers, byzantine }: AggregateMeasureOptions,
): void {
  const options = { rule, byzantine, clip_factor: 1, clip_iterations: 3 };
  const aggregation = aggregationOf(options);
  if (aggregation.by === 'distance') {
    const distances = new Distances(trainers);
    for (const { parts, count } of tensors) distances.add(openParts(parts, count), count);
    const chosen = aggregation.choose(distances);
    return meanOf(tensors, chosen);
  }
  if (rule === 'norm-filter') {
    const norms = Array.from({ length: trainers }, (_, trainer) => {
      const squares = tensors.map(({ parts, count }) => {
        return squaredNormOfSum([{ ...parts[trainer]!, weight: 1 }], count);
      });
      return Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
    });
    const border = normBorder(norms, 10)?.most ?? Infinity;
    return meanOf(
      tensors,
      norms.flatMap((norm, trainer) => (norm > border ? [] : [trainer])),
    );
  }
  for (const { parts, count } of tensors) squaredNormOfSum(parts, count, aggregation.rule(trainers));
}

function meanOf(tensors: readonly Tensor[], chosen: readonly number[]): void {
  for (const { parts, count } of tensors) {
    const kept = chosen.map((place) => ({ ...parts[place]!, weight: 1 / chosen.length }));
    squaredNormOfSum(kept, count);
  }
}
