import test from 'ava';
import { refreshPlan, type RefreshOptions } from '../../src/galore/projection/sketch.ts';
import { buildSlots } from '../../src/galore/slot.ts';
import { slotSizes } from '../../src/protocol/slot-sizes.ts';

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
const refresh = { type: 'sketch', oversample: 8, power_iterations: 1 } as const;

test('payloads under 4096 elements are f32 whatever the codec of the run', (t) => {
  const sizes = slotSizes(slots, { codec: 'int8', refresh: refreshPlan(refresh), ranks: null });
  t.deepEqual(
    sizes.map(({ payload }) => payload),
    [
      { codec: 'int8', totalBytes: 6400 + 4 * 25 }, // 100 x 64
      { codec: 'f32', totalBytes: 4 * 32 * 96 }, // R = P'G, 3072 elements
      { codec: 'int8', totalBytes: 6400 + 4 * 25 }, // R = GP, 200 x 32
      { codec: 'f32', totalBytes: 256 },
    ],
  );
});

test('the last of 2q + 1 rounds is on the side of the basis, the others alternate', (t) => {
  const sketchBytes = (options: Partial<RefreshOptions>): number[][] =>
    slotSizes(slots, { codec: 'f32', refresh: refreshPlan({ ...refresh, ...options }), ranks: null }).map(
      ({ sketches }) => sketches.map(({ totalBytes }) => totalBytes / 4),
    );
  t.deepEqual(sketchBytes({}).slice(1, 3), [
    [64 * 40, 96 * 40, 64 * 40],
    [64 * 40, 200 * 40, 64 * 40],
  ]);
  t.deepEqual(sketchBytes({ power_iterations: 0 })[1], [64 * 40]);
  t.is(sketchBytes({ oversample: 100 })[1]?.at(-1), 64 * 64);
  t.deepEqual(sketchBytes({ type: 'exact' })[2], [64 * 200]);
});

test('only projected slots have a basis and sketches', (t) => {
  const sizes = slotSizes(slots, { codec: 'f32', refresh: refreshPlan(refresh), ranks: null });
  t.deepEqual(sizes[0]?.basis, null);
  t.deepEqual(sizes[0]?.sketches, []);
  t.deepEqual(sizes[1]?.basis, { codec: 'f32', totalBytes: 4 * 64 * 32 });
  t.deepEqual(
    sizes[2]?.sketches.map(({ totalBytes }) => totalBytes),
    [4 * 64 * 40, 4 * 200 * 40, 4 * 64 * 40],
  );
});
