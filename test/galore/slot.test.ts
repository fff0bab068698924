import test from 'ava';
import { ruleState } from '../../src/galore/optimizer/rule-state.ts';
import {
  basisShape,
  buildSlots,
  describeSlots,
  matrixShape,
  isTallStep,
  momentsIn,
  payloadNumbers,
  payloadShape,
  sideOf,
  sizeOf,
  stepKinds,
  tensorLength,
  travels,
  type SlotOptions,
} from '../../src/galore/slot.ts';

const OPTIONS: SlotOptions = {
  policy: 'one-sided',
  rank: 4,
  projType: 'std',
  targetModules: ['attn', 'mlp'],
  rule: 'adamw',
  plainRule: 'adamw',
};

const TENSORS = [
  { name: 'model.embed_tokens.weight', shape: [100, 8] },
  { name: 'model.layers.0.self_attn.q_proj.weight', shape: [8, 8] },
  { name: 'model.layers.0.mlp.gate_proj.weight', shape: [20, 8] },
  { name: 'model.layers.0.mlp.down_proj.weight', shape: [8, 20] },
  { name: 'model.layers.0.input_layernorm.weight', shape: [8] },
  { name: 'lm_head.weight', shape: [100, 8] },
];

test('std puts the basis on the smaller side, and on the right of a square matrix', (t) => {
  t.is(sideOf('std', 8, 5), 'right');
  t.is(sideOf('std', 5, 8), 'left');
  t.is(sideOf('std', 6, 6), 'right');
});

test('reverse_std is the opposite of std and left and right are what they say', (t) => {
  t.is(sideOf('reverse_std', 8, 5), 'left');
  t.is(sideOf('reverse_std', 5, 8), 'right');
  t.is(sideOf('reverse_std', 6, 6), 'left');
  t.is(sideOf('left', 8, 5), 'left');
  t.is(sideOf('right', 5, 8), 'right');
});

test('only matrices of attn and mlp are projected', (t) => {
  const policies = buildSlots(TENSORS, OPTIONS).map((slot) => slot.policy);
  t.deepEqual(policies, ['dense', 'one-sided', 'one-sided', 'one-sided', 'dense', 'dense']);
});

test('without a policy everything is dense', (t) => {
  t.true(buildSlots(TENSORS, { ...OPTIONS, policy: null }).every((slot) => slot.policy === 'dense'));
});

test('payloads and bases have the shapes of their side', (t) => {
  const [embedding, query, gate, down, norm] = buildSlots(TENSORS, OPTIONS);
  t.deepEqual(payloadShape(embedding!, 1), [100, 8]);
  t.deepEqual(payloadShape(norm!, 1), [8]);
  t.deepEqual(payloadShape(query!, 1), [8, 4]);
  t.deepEqual(payloadShape(gate!, 1), [20, 4]);
  t.deepEqual(payloadShape(down!, 1), [4, 20]);
  for (const slot of [query!, gate!, down!]) {
    t.deepEqual(slot.policy === 'one-sided' ? basisShape(slot) : null, [8, 4]);
  }
});

test('a rank above the smaller side is cut to it', (t) => {
  const slots = buildSlots(TENSORS, { ...OPTIONS, rank: 1000 });
  t.deepEqual(
    slots.flatMap((slot) => (slot.policy === 'one-sided' ? [slot.rank] : [])),
    [8, 8, 8],
  );
});

test('the description changes with everything both sides must agree on', (t) => {
  const base = describeSlots(buildSlots(TENSORS, OPTIONS));
  t.is(base.split('\n').length, TENSORS.length + 1);
  for (const options of [
    { ...OPTIONS, rank: 5 },
    { ...OPTIONS, projType: 'reverse_std' as const },
    { ...OPTIONS, policy: null },
    { ...OPTIONS, policy: 'dense' as const },
    { ...OPTIONS, rule: 'sumo' as const },
    { ...OPTIONS, weights: 'int8' as const },
  ]) {
    t.not(describeSlots(buildSlots(TENSORS, options)), base);
  }
  t.not(describeSlots(buildSlots(TENSORS.toReversed(), OPTIONS)), base);
});

test('a vector has no matrix shape', (t) => {
  t.throws(() => matrixShape({ name: 'norm', shape: [8] }), { instanceOf: RangeError, message: /norm/ });
});

const POWER: SlotOptions = {
  ...OPTIONS,
  policy: 'power',
  rule: 'power',
  targetModules: ['attn', 'mlp', 'embed_tokens', 'lm_head'],
};

test('power slots send one of two products by turns, and odd and even steps send about as much', (t) => {
  const slots = buildSlots(TENSORS, POWER);
  const [embedding] = slots;
  const shapes = [1, 2, 3].map((step) => payloadShape(embedding!, step));
  t.deepEqual(shapes[0], shapes[2]);
  t.deepEqual(
    shapes.slice(0, 2).toSorted((a, b) => b[0]! - a[0]!),
    [
      [100, 4],
      [4, 8],
    ],
  );
  const numbers = [1, 2].map((step) =>
    slots.reduce((sum, slot) => sum + sizeOf(payloadShape(slot, step)), 0),
  );
  // embedding and head are 92 x 4 apart and have opposite phases; so are gate and down, 20 x 8 and 8 x 20, in one.
  t.is(numbers[0], numbers[1]);
  const phaseOf = (name: string) => slots.find((slot) => slot.name.includes(name))!;
  const tall = (name: string) => {
    const slot = phaseOf(name);
    return slot.policy === 'power' && isTallStep(slot, 1);
  };
  t.not(tall('embed_tokens'), tall('lm_head'));
  t.is(tall('gate_proj'), tall('down_proj'));
});

test('whatever the matrices, the two kinds of steps differ by no more than the largest of them', (t) => {
  for (let count = 1; count <= 9; count++) {
    const tensors = Array.from({ length: count }, (_, i) => ({
      name: `attn ${i}`,
      shape: [10 + ((7 * i) % 11) * 5, 16],
    }));
    const slots = buildSlots(tensors, POWER);
    const [odd = 0, even = 0] = [1, 2].map((step) =>
      slots.reduce((sum, slot) => sum + sizeOf(payloadShape(slot, step)), 0),
    );
    const largest = Math.max(...tensors.map(({ shape: [m = 0, n = 0] }) => 4 * Math.abs(m - n)));
    t.true(Math.abs(odd - even) <= largest, `${count}: ${odd} and ${even}`);
  }
});

test('the first group that matches decides how a tensor travels, its rank, scale and feedback', (t) => {
  const groups = [
    { match: ['embed_tokens', 'norm'], policy: 'frozen' },
    { match: ['q_proj'], rank: 2, scale: 0.5 },
    { match: ['proj'], policy: 'one-sided', feedback: 'payload' },
    { match: ['lm_head'], policy: 'dense' },
  ] as const;
  const slots = buildSlots(TENSORS, { ...POWER, groups });
  t.deepEqual(
    slots.map(({ policy, rank, scale, feedback }) => [policy, rank, scale, feedback]),
    [
      ['frozen', undefined, undefined, undefined],
      ['power', 2, 0.5, 'gradient'],
      ['one-sided', 4, undefined, 'payload'],
      ['one-sided', 4, undefined, 'payload'],
      ['frozen', undefined, undefined, undefined],
      ['dense', undefined, undefined, undefined],
    ],
  );
  t.deepEqual(slots.map(travels), [false, true, true, true, false, true]);
  t.deepEqual(payloadShape(slots[0]!, 1), [0]);
  t.deepEqual(ruleState(slots[0]!), [], 'nothing is kept of what is not trained');
  const lines = describeSlots(slots).split('\n');
  t.is(
    lines[1],
    '1 model.layers.0.self_attn.q_proj.weight [8,8] power power 2 0 int8 scale 0.5 feedback gradient',
  );
});

test('moments that are averaged travel behind the payload, and the table says when and how', (t) => {
  const averaged = {
    moments: [
      { kind: 'm', period: 2 },
      { kind: 'v', period: 4 },
    ],
    codec: 'bf16',
  } as const;
  const options = {
    ...POWER,
    policy: 'one-sided',
    rule: 'outer',
    plainRule: 'outer',
    inner: 'adamw',
  } as const;
  const groups = [{ match: ['embed_tokens'], policy: 'frozen' }] as const;
  const [frozen, query] = buildSlots(TENSORS, { ...options, averaged, groups });
  t.deepEqual(
    [1, 2, 3, 4].map((step) => momentsIn(query!, step)),
    [[], ['m'], [], ['m', 'v']],
  );
  const size = sizeOf(payloadShape(query!, 1));
  t.deepEqual(
    [1, 2, 3, 4].map((step) => [tensorLength(query!, step), payloadNumbers(query!, step)]),
    [1, 2, 1, 3].map((times) => [times * size, times * size]),
  );
  t.deepEqual(momentsIn(frozen!, 4), []);
  t.regex(describeSlots([query!]), / local adamw averaged m 2 v 4 bf16\n$/);
  t.deepEqual(stepKinds(query!), [
    { step: 1, share: 1 / 2 },
    { step: 2, share: 1 / 4 },
    { step: 4, share: 1 / 4 },
  ]);
  const always = { ...averaged, moments: averaged.moments.map(({ kind }) => ({ kind, period: 1 })) };
  t.deepEqual(stepKinds({ ...query!, averaged: always }), [{ step: 1, share: 1 }]);
});
