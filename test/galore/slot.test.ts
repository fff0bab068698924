import test from 'ava';
import {
  basisShape,
  buildSlots,
  describeSlots,
  matrixShape,
  payloadShape,
  sideOf,
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
