import test from 'ava';
import { refreshPlan, type RefreshOptions } from '../../src/galore/projection/sketch.ts';
import { buildSlots } from '../../src/galore/slot.ts';
import {
  basisSize,
  payloadOfLength,
  payloadSize,
  rankOfBasis,
  ranksIn,
  sameCodec,
  sizesAt,
  slotSizes,
  type SlotSizes,
} from '../../src/protocol/slot-sizes.ts';

const slots = buildSlots(
  [
    { name: 'model.embed_tokens.weight', shape: [100, 64] },
    { name: 'layers.0.self_attn.q_proj.weight', shape: [64, 96] }, // std: m < n, side left, P is 64 x 32
    { name: 'layers.0.mlp.up_proj.weight', shape: [200, 64] }, // side right, P is 64 x 32
    { name: 'model.norm.weight', shape: [64] },
  ],
  {
    policy: 'one-sided',
    rank: 32,
    projType: 'std',
    targetModules: ['attn', 'mlp'],
    rule: 'adamw',
    plainRule: 'adamw',
  },
);
/** The same in every step for slots that are not power. */
function payloadOf(sizes: SlotSizes) {
  return payloadSize(sizes, 'contribution', 1);
}

const refresh = { type: 'sketch', oversample: 8, power_iterations: 1 } as const;

test('vectors are f32 whatever the codec of the run', (t) => {
  const sizes = slotSizes(slots, {
    codecs: sameCodec(slots, 'int8'),
    refresh: refreshPlan(refresh),
    ranks: null,
  });
  t.deepEqual(sizes.map(payloadOf), [
    { codec: 'int8', totalBytes: 6400 + 4 * 25 }, // 100 x 64
    { codec: 'int8', totalBytes: 3072 + 4 * 12 }, // R = P'G, 32 x 96
    { codec: 'int8', totalBytes: 6400 + 4 * 25 }, // R = GP, 200 x 32
    { codec: 'f32', totalBytes: 256 },
  ]);
});

test('the last of 2q + 1 rounds is on the side of the basis, the others alternate', (t) => {
  const sketchBytes = (options: Partial<RefreshOptions>): number[][] =>
    slotSizes(slots, {
      codecs: sameCodec(slots, 'f32'),
      refresh: refreshPlan({ ...refresh, ...options }),
      ranks: null,
    }).map(({ sketches }) => sketches.map(({ totalBytes }) => totalBytes / 4));
  t.deepEqual(sketchBytes({}).slice(1, 3), [
    [64 * 40, 96 * 40, 64 * 40],
    [64 * 40, 200 * 40, 64 * 40],
  ]);
  t.deepEqual(sketchBytes({ power_iterations: 0 })[1], [64 * 40]);
  t.is(sketchBytes({ oversample: 100 })[1]?.at(-1), 64 * 64);
  t.deepEqual(sketchBytes({ type: 'exact' })[2], [64 * 200]);
});

test('only projected slots have a basis and sketches', (t) => {
  const sizes = slotSizes(slots, {
    codecs: sameCodec(slots, 'f32'),
    refresh: refreshPlan(refresh),
    ranks: null,
  });
  t.deepEqual(sizes[0]?.basis, null);
  t.deepEqual(sizes[0]?.sketches, []);
  t.deepEqual(sizes[1]?.basis, { codec: 'f32', totalBytes: 4 * 64 * 32 });
  t.deepEqual(
    sizes[2]?.sketches.map(({ totalBytes }) => totalBytes),
    [4 * 64 * 40, 4 * 200 * 40, 4 * 64 * 40],
  );
});

const adaptive = slotSizes(slots, {
  codecs: sameCodec(slots, 'int8'),
  refresh: refreshPlan({ ...refresh, held_out_columns: 6 }),
  ranks: { minRank: 8, multiple: 8 },
});

test('with adaptive ranks payload and basis follow the rank, sketches do not', (t) => {
  const table = sizesAt(
    adaptive,
    new Map([
      [1, 8],
      [2, 16],
    ]),
  );
  t.deepEqual(payloadOf(table[1]!), { codec: 'int8', totalBytes: 768 + 4 * 3 }); // 8 x 96
  t.deepEqual(table[1]?.basis, { codec: 'f32', totalBytes: 4 * 64 * 8 });
  t.deepEqual(payloadOf(table[2]!), { codec: 'int8', totalBytes: 3200 + 4 * 13 }); // 200 x 16
  for (const [index, { sketches }] of table.entries()) t.deepEqual(sketches, adaptive[index]?.sketches);
  t.deepEqual(payloadOf(sizesAt(table, new Map([[2, 32]]))[2]!), payloadOf(adaptive[2]!), 'and grow again');
  t.deepEqual(table[0], adaptive[0]);
});

test('held-out columns are in the last round alone', (t) => {
  t.deepEqual(
    adaptive[1]?.sketches.map(({ totalBytes }) => totalBytes / 4),
    [64 * 40, 96 * 40, 64 * (40 + 6)],
  );
});

test('a new basis has an allowed rank, whatever the rank of now', (t) => {
  const sizes = sizesAt(adaptive, new Map([[1, 8]]))[1]!;
  const ofRank = (rank: number) => basisSize(sizes, 4 * 64 * rank);
  for (const rank of [8, 16, 24, 32]) t.deepEqual(ofRank(rank), { codec: 'f32', totalBytes: 4 * 64 * rank });
  for (const rank of [0, 1, 7, 9, 33, 40, 8.5]) {
    t.regex(String(ofRank(rank)), /^a basis of rank \S+ is not allowed: multiples of 8 from 8, and 32, are$/);
  }
  t.is(rankOfBasis(sizes.adaptive!, 4 * 64 * 24), 24);
  t.is(basisSize(adaptive[0]!, 64), 'the slot is not projected');
});

test('a fixed rank allows no other', (t) => {
  const fixed = slotSizes(slots, {
    codecs: sameCodec(slots, 'f32'),
    refresh: refreshPlan(refresh),
    ranks: null,
  });
  t.deepEqual(basisSize(fixed[1]!, 4 * 64 * 8), fixed[1]!.basis);
  t.deepEqual(sizesAt(fixed, new Map([[1, 8]])), fixed);
});

test('the ranks of a snapshot are those of its bases', (t) => {
  const tensors = [
    { name: 'weights/layers.0.mlp.up_proj.weight', shape: [200, 64] },
    { name: 'basis/layers.0.mlp.up_proj.weight', shape: [64, 24] },
  ];
  t.deepEqual(ranksIn(tensors, adaptive), new Map([[2, 24]]));
  t.deepEqual(ranksIn([], adaptive), new Map());
});

test('a row-sparse payload has as many rows as its length says, at most the tokens of a step', (t) => {
  const groups = [{ match: ['embed_tokens'], policy: 'row-sparse' as const }];
  const table = (rows: number, stepTokens: number): SlotSizes => {
    const [slot] = buildSlots([{ name: 'model.embed_tokens.weight', shape: [rows, 64] }], {
      ...{ policy: null, rank: 1, projType: 'std', targetModules: [], rule: 'adamw', plainRule: 'adamw' },
      ...{ stepTokens, groups },
    });
    const codecs = sameCodec([slot!], 'int8');
    return slotSizes([slot!], { codecs, refresh: refreshPlan(refresh), ranks: null })[0]!;
  };
  // 100 x 64 are 6400 numbers: int8 in any number of rows, 4 + 64 bytes each and a scale for every 256.
  const sizes = table(100, 10);
  t.deepEqual(payloadOf(sizes), { codec: 'int8', totalBytes: 4 + 10 * 68 + 4 * 3 });
  const ofLength = (totalBytes: number) => payloadOfLength(sizes, 'update', 1, totalBytes);
  t.deepEqual(ofLength(4), { codec: 'int8', totalBytes: 4 });
  t.deepEqual(ofLength(4 + 68 + 4), { codec: 'int8', totalBytes: 76 });
  for (const wrong of [0, 5, 75, 77, 4 + 11 * 68 + 4 * 3]) {
    t.is(ofLength(wrong), `${wrong} bytes of int8 are not 0 to 10 rows of model.embed_tokens.weight`);
  }
  t.is(payloadOf(table(100, 1000)).totalBytes, 4 + 100 * 68 + 4 * 25);
  t.is(payloadOf(table(3, 1000)).codec, 'f32');
});
