import test from 'ava';
import fc from 'fast-check';
import { Distances, krumScores } from '../../../src/galore/aggregate/krum.ts';
import { openParts, sumEncoded, type EncodedPart } from '../../../src/galore/aggregate/mean.ts';
import { normBorder } from '../../../src/galore/aggregate/norm-filter.ts';
import type { SlotRule } from '../../../src/galore/aggregate/rule.ts';
import { aggregationOf } from '../../../src/galore/aggregate/rules.ts';
import {
  AGGREGATION_RULES,
  byzantineAmong,
  krumTolerance,
  leastTrainers,
  toleratedAmong,
  type AggregationOptions,
} from '../../../src/galore/aggregate/tolerance.ts';
import { sortingNetwork } from '../../../src/galore/aggregate/sorting-network.ts';
import { NotFiniteError, ProtocolError } from '../../../src/errors.ts';
import { codecFor, type CodecName } from '../../../src/galore/codec/codec.ts';
import { derive, randomNormal, randomUniform } from '../../../src/random.ts';
import { plainClipping, plainKrum, plainMean, plainMedian, plainTrimmedMean } from './plain-rules.ts';

type Row = readonly number[];

const DEFAULTS: AggregationOptions = { rule: 'mean', byzantine: 1, clip_factor: 1, clip_iterations: 3 };

function optionsOf(options: Partial<AggregationOptions>): AggregationOptions {
  return { ...DEFAULTS, ...options };
}

/** f32 numbers of a trainer. */
function normals(count: number, ...labels: (string | number)[]): number[] {
  const key = derive(4, ...labels);
  return [...Float32Array.from({ length: count }, (_, i) => randomNormal(key, i))];
}

function partsOf(rows: readonly Row[], shares: readonly number[], codec: CodecName = 'f32'): EncodedPart[] {
  return rows.map((row, i) => {
    const bytes = codecFor(codec).encode(Float32Array.from(row), derive(5, i));
    return { bytes, codec: codecFor(codec), weight: shares[i]! };
  });
}

function equalShares(count: number): number[] {
  return Array.from({ length: count }, () => 1 / count);
}

function distancesOf(parts: readonly EncodedPart[], count: number): Distances {
  const distances = new Distances(parts.length);
  distances.add(openParts(parts, count), count);
  return distances;
}

/** What the rule of `options` makes of the rows. */
function aggregate(
  options: AggregationOptions,
  rows: readonly Row[],
  shares: readonly number[] = equalShares(rows.length),
): number[] {
  const aggregation = aggregationOf(options);
  const parts = partsOf(rows, shares);
  const count = rows[0]!.length;
  if (aggregation.by === 'slot') return [...sumEncoded(parts, count, aggregation.rule(rows.length)).sum];
  const kept = aggregation.choose(distancesOf(parts, count));
  return plainMean(
    kept.map((i) => rows[i]!),
    kept.map((i) => shares[i]!),
  );
}

function nearly(got: readonly number[], want: readonly number[], tolerance = 1e-6): boolean {
  return got.every((x, i) => Math.abs(x - want[i]!) <= tolerance * (1 + Math.abs(want[i]!)));
}

const number32 = fc.float({ noNaN: true, min: -1000, max: 1000 });
/** Squares of their differences are exact, so that equal scores are equal in any arithmetic. */
const whole = fc.integer({ min: -1000, max: 1000 });
/** Some rows of f32 numbers, and positive shares that sum to one. */
const rowsAndShares = (least: number, most: number, number = number32) =>
  fc.tuple(fc.integer({ min: least, max: most }), fc.integer({ min: 1, max: 20 })).chain(([n, count]) =>
    fc.record({
      rows: fc.array(fc.array(number, { minLength: count, maxLength: count }), {
        minLength: n,
        maxLength: n,
      }),
      shares: fc
        .array(fc.integer({ min: 1, max: 100 }), { minLength: n, maxLength: n })
        .map((tokens) => tokens.map((c) => c / tokens.reduce((sum, each) => sum + each, 0))),
    }),
  );

test('a sorting network sorts all that is asked of it, for every number of inputs', (t) => {
  for (const count of [1, 2, 3, 5, 7, 8, 13, 64]) {
    for (const [from, to] of [
      [0, count],
      [Math.floor((count - 1) / 2), Math.ceil((count + 1) / 2)],
    ] as const) {
      for (let trial = 0; trial < 50; trial++) {
        const values = normals(count, 'network', count, trial);
        const sorted = values.toSorted((a, b) => a - b);
        for (const { first, second, keepsFirst, keepsSecond } of sortingNetwork(count, from, to)) {
          const [a, b] = [values[first]!, values[second]!];
          values[first] = keepsFirst ? Math.min(a, b) : NaN; // what is not kept is not read
          values[second] = keepsSecond ? Math.max(a, b) : NaN;
        }
        t.deepEqual(values.slice(from, to), sorted.slice(from, to));
      }
    }
  }
});

test('of places that nobody asks for no comparator is left', (t) => {
  t.is(sortingNetwork(8).length, 19);
  t.true(sortingNetwork(7, 3, 4).length < sortingNetwork(7).length);
  t.deepEqual(sortingNetwork(4, 2, 2), []);
});

test('median, trimmed mean and centred clipping are those of their definitions', (t) => {
  fc.assert(
    fc.property(
      rowsAndShares(1, 12),
      fc.integer({ min: 0, max: 6 }),
      fc.integer({ min: 0, max: 4 }),
      ({ rows, shares }, trim, iterations) => {
        t.true(nearly(aggregate(optionsOf({ rule: 'median' }), rows, shares), plainMedian(rows)));
        const most = Math.min(trim, Math.floor((rows.length - 1) / 2));
        const trimmed = aggregate(optionsOf({ rule: 'trimmed-mean', byzantine: trim }), rows, shares);
        t.true(nearly(trimmed, plainTrimmedMean(rows, most)));
        const clipping = { clip_factor: 0.7, clip_iterations: iterations };
        const clipped = aggregate(optionsOf({ rule: 'centred-clipping', ...clipping }), rows, shares);
        t.true(nearly(clipped, plainClipping(rows, shares, 0.7, iterations), 1e-5));
      },
    ),
    { numRuns: 60 },
  );
});

test('Krum and Multi-Krum choose as by definition, and their mean is that of the tokens', (t) => {
  fc.assert(
    fc.property(rowsAndShares(5, 11, whole), ({ rows, shares }) => {
      for (const byzantine of [0, 1]) {
        const distances = distancesOf(partsOf(rows, shares), rows[0]!.length);
        const [krum, multi] = (['krum', 'multi-krum'] as const).map((rule) => {
          const aggregation = aggregationOf(optionsOf({ rule, byzantine }));
          return aggregation.by === 'distance' ? aggregation.choose(distances) : [];
        });
        t.deepEqual(krum, plainKrum(rows, byzantine, 1));
        t.deepEqual(multi, plainKrum(rows, byzantine, rows.length - byzantine));
      }
    }),
    { numRuns: 60 },
  );
});

test('tensors of several chunks and every codec give what their decoded numbers give', (t) => {
  const count = 20_001;
  const values = [1, 2, 3, 4, 5].map((trainer) => normals(count, 'chunks', trainer));
  for (const codec of ['int8', 'bf16', 'int4'] as const) {
    const parts = partsOf(values, equalShares(5), codec);
    const rows = parts.map(({ bytes }) => [...codecFor(codec).decode(bytes, count)]);
    const of = (options: Partial<AggregationOptions>): number[] => {
      const aggregation = aggregationOf(optionsOf(options));
      return aggregation.by === 'slot' ? [...sumEncoded(parts, count, aggregation.rule(5)).sum] : [];
    };
    t.true(nearly(of({ rule: 'median' }), plainMedian(rows)));
    t.true(nearly(of({ rule: 'trimmed-mean' }), plainTrimmedMean(rows, 1)));
    t.true(nearly(of({ rule: 'centred-clipping' }), plainClipping(rows, equalShares(5), 1, 3), 1e-5));
    const { squared } = distancesOf(parts, count);
    const want = rows[0]!.reduce((sum, x, i) => sum + (x - rows[3]![i]!) ** 2, 0);
    t.true(Math.abs(squared[3]! / want - 1) < 1e-6);
  }
});

/** What a garbage sender may send in place of the honest mean. */
const GARBAGE: readonly ((honest: Row, i: number) => number)[] = [
  (honest, i) => 100 * honest[i]!,
  (honest, i) => -honest[i]!,
  (_honest, i) => 1e18 * (randomUniform(derive(9, 'garbage'), i) - 0.5),
  () => 0,
  () => -1e18,
];

test('whatever f of n send, median and trimmed mean stay within what honest trainers sent of each number', (t) => {
  fc.assert(
    fc.property(
      rowsAndShares(3, 9),
      fc.array(fc.float({ noNaN: true, min: Math.fround(-9e17), max: Math.fround(9e17) }), {
        minLength: 20,
        maxLength: 20,
      }),
      fc.nat(),
      ({ rows, shares }, garbage, place) => {
        const f = Math.floor((rows.length - 1) / 2);
        const bad = new Set(Array.from({ length: f }, (_, k) => (place + k) % rows.length));
        const sent = rows.map((row, i) => (bad.has(i) ? row.map((_, at) => garbage[at]!) : row));
        const honest = rows.filter((_, i) => !bad.has(i));
        for (const options of [{ rule: 'median' }, { rule: 'trimmed-mean', byzantine: f }] as const) {
          const got = aggregate(optionsOf(options), sent, shares);
          got.forEach((x, at) => {
            const column = honest.map((row) => row[at]!);
            t.true(x >= Math.min(...column) && x <= Math.max(...column));
          });
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('two of seven that send garbage do not move a robust rule beyond the honest, and carry the mean away', (t) => {
  const count = 300;
  const signal = normals(count, 'signal');
  const honest = [1, 2, 3, 4, 5].map((trainer) =>
    normals(count, 'noise', trainer).map((x, i) => Math.fround(signal[i]! + 0.3 * x)),
  );
  const clean = plainMean(honest, equalShares(5));
  const off = (got: Row): number => norm(got.map((x, i) => x - clean[i]!)) / norm(clean);
  for (const send of GARBAGE) {
    const bad = clean.map((_, i) => Math.fround(send(clean, i)));
    const sent = [honest[0]!, bad, ...honest.slice(1), bad];
    for (const rule of AGGREGATION_RULES) {
      if (rule === 'norm-filter') continue; // outliers.test.ts
      const error = off(aggregate(optionsOf({ rule, byzantine: 2 }), sent));
      if (rule === 'mean') t.true(error > 0.25, `mean: ${error}`);
      else t.true(error < 0.36, `${rule}: ${error}`); // one honest trainer alone is 0.3 off, to the mean of five
    }
  }
});

function norm(row: Row): number {
  return Math.sqrt(row.reduce((sum, x) => sum + x * x, 0));
}

test('the order of the trainers changes nothing', (t) => {
  fc.assert(
    fc.property(rowsAndShares(3, 9), fc.nat(), ({ rows, shares }, seed) => {
      const key = derive(6, seed);
      const order = rows.map((_, i) => i).sort((a, b) => randomUniform(key, a) - randomUniform(key, b));
      const [mixed, mixedShares] = [order.map((i) => rows[i]!), order.map((i) => shares[i]!)];
      for (const rule of ['median', 'trimmed-mean'] as const) {
        const [a, b] = [aggregate(optionsOf({ rule }), rows), aggregate(optionsOf({ rule }), mixed)];
        t.deepEqual(a, b, rule); // bit by bit
      }
      const clipped = optionsOf({ rule: 'centred-clipping' });
      t.true(nearly(aggregate(clipped, rows, shares), aggregate(clipped, mixed, mixedShares), 1e-5));
      const [scores, mixedScores] = [rows, mixed].map((each) =>
        krumScores(distancesOf(partsOf(each, equalShares(each.length)), each[0]!.length), 0),
      );
      t.deepEqual(
        [...mixedScores!],
        order.map((i) => scores![i]!),
      );
    }),
    { numRuns: 40 },
  );
});

test('equal tensors come back bit by bit, and one trainer alone is what it sent', (t) => {
  const row = normals(500, 'equal').map((x) => x * 3);
  for (const rule of AGGREGATION_RULES) {
    const row32 = [...Float32Array.from(row)];
    t.deepEqual(aggregate(optionsOf({ rule }), [row32]), row32, rule);
    const four = aggregate(optionsOf({ rule }), [row32, row32, row32, row32]);
    t.true(nearly(four, row32, 1e-7), rule);
  }
});

test('parts of a sum are compared by token: their scale makes means of them', (t) => {
  const [means, shares] = [
    [1, 2, 3, 40, 5],
    [0.1, 0.2, 0.3, 0.2, 0.2],
  ] as const;
  const parts = means.map((mean, i) => {
    const sent = Float32Array.of(shares[i]! * mean);
    const bytes = codecFor('f32').encode(sent, derive(5, i));
    return { bytes, codec: codecFor('f32'), weight: 1, share: shares[i]!, scale: 1 / shares[i]! };
  });
  const of = (rule: AggregationOptions['rule']): number => {
    const aggregation = aggregationOf(optionsOf({ rule }));
    return sumEncoded(parts, 1, (aggregation as { rule(n: number): SlotRule }).rule(5)).sum[0]!;
  };
  t.true(Math.abs(of('mean') - 10.4) < 1e-5); // 0.1 + 0.4 + 0.9 + 8 + 1
  t.true(Math.abs(of('median') - 3) < 1e-6);
  t.true(Math.abs(of('trimmed-mean') - 10 / 3) < 1e-6); // of 2, 3, 5
});

test('f is a number or a share rounded down, and fewer trainers stand fewer', (t) => {
  t.is(byzantineAmong(2, 5), 2);
  t.deepEqual(
    [5, 6, 7, 10].map((count) => byzantineAmong('30%', count)),
    [1, 1, 2, 3],
  );
  t.deepEqual(
    [1, 2, 3, 4, 5, 6, 7, 9].map((count) => krumTolerance(2, count)),
    [0, 0, 0, 0, 1, 1, 2, 2],
  );
  t.deepEqual(
    AGGREGATION_RULES.map((rule) => leastTrainers(rule, 2)),
    [1, 3, 5, 7, 7, 3, 3],
  );
  t.deepEqual(
    AGGREGATION_RULES.map((rule) => toleratedAmong(optionsOf({ rule, byzantine: 2 }), 4)),
    [0, 1, 1, 0, 0, 1, 1],
  );
});

test('with fewer trainers than Krum needs it takes no more than before, and of two it takes both', (t) => {
  const rows = [[1], [1.1], [1.2], [50], [60]];
  const chosen = (count: number): readonly number[] => {
    const aggregation = aggregationOf(optionsOf({ rule: 'multi-krum', byzantine: 2 }));
    const parts = partsOf(rows.slice(0, count), equalShares(count));
    return aggregation.by === 'distance' ? aggregation.choose(distancesOf(parts, 1)) : [];
  };
  t.deepEqual(chosen(5), [0, 1, 2]); // n - f of them, though the scores are those of f = 1
  t.deepEqual(chosen(3).length, 1);
  t.deepEqual(chosen(2), [0, 1]);
});

test('the border of norms is a multiple of the lower median, with three judges and a median above zero', (t) => {
  t.is(normBorder([1, 100], 3), null);
  t.is(normBorder([0, 0, 5], 3), null);
  t.deepEqual(normBorder([4, 1, 100, 2], 3), { median: 2, most: 6 });
});

test('numbers that are not finite, and sums beyond f32, end in the errors of the mean', (t) => {
  const values = [1, 2, 3].map(() => Float32Array.of(1, 2, 3));
  const parts = partsOf(
    values.map((row) => [...row]),
    equalShares(3),
  );
  const bytes = parts[1]!.bytes.slice();
  new DataView(bytes.buffer).setFloat32(4, NaN, true);
  const bad = parts.map((part, i) => (i === 1 ? { ...part, bytes } : part));
  for (const rule of ['median', 'trimmed-mean', 'centred-clipping'] as const) {
    const aggregation = aggregationOf(optionsOf({ rule }));
    if (aggregation.by !== 'slot') return t.fail();
    const slotRule = aggregation.rule(3);
    t.throws(() => sumEncoded([parts[0]!, { ...parts[1]!, bytes: bytes.subarray(4) }], 3, slotRule), {
      instanceOf: ProtocolError,
    });
    try {
      const { sum } = sumEncoded(bad, 3, slotRule);
      t.true(sum.every(Number.isFinite)); // it was left out
    } catch (error) {
      t.true(error instanceof ProtocolError || error instanceof NotFiniteError);
    }
  }
});
