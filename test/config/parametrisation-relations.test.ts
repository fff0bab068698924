import test from 'ava';
import { LORA_SAVED, LORA_TARGETS } from '../../src/galore/parametrisation/lora.ts';
import { RELORA_SAVED } from '../../src/galore/parametrisation/relora.ts';
import { MINIMAL, resolve } from './parse.ts';
import { testRules, type BrokenRule } from './rule-tests.ts';

const LORA = 'method.name=lora';
const RELORA = ['method.name=relora', 'method.merge_every=20'];

/** Fields of methods with bases, with values that are not their defaults. */
const OF_BASES: readonly [string, string, string][] = [
  ['method.basis', 'dct', 'svd'],
  ['method.proj_type', 'left', 'std'],
  ['method.scale', '1', '0.25'],
  ['method.limiter', '1.2', '1.01'],
  ['method.moments', 'reset', 'transport'],
  ['method.weights', 'int8', 'f32'],
  ['method.refresh.type', 'exact', 'sketch'],
  ['method.refresh.oversample', '3', '8'],
  ['method.refresh.stagger', 'false', 'true'],
];

const RULES: readonly BrokenRule[] = [
  ...OF_BASES.map(([field, value, usual]): BrokenRule => ({
    title: `LoRA has no use for ${field}`,
    broken: [LORA, `${field}=${value}`],
    field,
    words: /with method\.name: (lora, which has no bases|.*int8 is for matrices with a basis)/,
    mended: [LORA, `${field}=${usual}`],
  })),
  {
    title: 'ranks of adapters are no share of a budget',
    broken: [LORA, 'method.rank_budget=10'],
    field: 'method.rank_budget',
    mended: [LORA, 'method.rank=2'],
  },
  {
    title: 'a matrix has no rank above its sides',
    broken: [
      LORA,
      'method.rank=100000',
      'model={hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 2}',
    ],
    field: 'method.rank',
    mended: [
      LORA,
      'method.rank=64',
      'model={hidden_size: 64, intermediate_size: 96, num_hidden_layers: 1, num_attention_heads: 2}',
    ],
  },
  {
    title: 'lora_alpha is for adapters',
    broken: ['method.lora_alpha=4'],
    field: 'method.lora_alpha',
    words: /it is used only with method\.name: lora or relora, not galore/,
    mended: [LORA, 'method.lora_alpha=4', 'method.use_rslora=true'],
  },
  {
    title: 'modules_to_save is for adapters',
    broken: ['method.modules_to_save=[lm_head]'],
    field: 'method.modules_to_save',
    mended: [LORA, 'method.modules_to_save=[lm_head]'],
  },
  {
    title: 'merges are for relora',
    broken: [LORA, 'method.merge_every=20'],
    field: 'method.merge_every',
    words: /it is used only with method\.name: relora, not lora/,
    mended: RELORA,
  },
  {
    title: 'so is a rise of the learning rate after them',
    broken: [LORA, 'optimizer.schedule.restart_warmup_steps=2'],
    field: 'optimizer.schedule.restart_warmup_steps',
    mended: [...RELORA, 'optimizer.schedule.restart_warmup_steps=2'],
  },
  {
    title: 'and the pruning of moments',
    broken: ['method.prune_ratio=0.5'],
    field: 'method.prune_ratio',
    mended: [...RELORA, 'method.prune_ratio=0.5'],
  },
  {
    title: 'ReLoRA merges at least once',
    broken: ['method.name=relora', 'steps=60'],
    field: 'method.merge_every',
    words: /method\.merge_every is 1000; it must be below steps \(60\): else nothing is ever merged/,
    mended: ['method.name=relora', 'steps=1001'],
  },
  {
    title: 'the learning rate is there before the next merge',
    broken: [...RELORA, 'optimizer.schedule.restart_warmup_steps=20'],
    field: 'optimizer.schedule.restart_warmup_steps',
    words: /it must be below method\.merge_every \(20\)/,
    mended: [...RELORA, 'optimizer.schedule.restart_warmup_steps=19'],
  },
  {
    title: 'an adapter is one of a model in a folder',
    broken: [LORA, 'model.adapter=a'],
    field: 'model.adapter',
    words: /it needs model\.path/,
    mended: [LORA, 'model={path: m, adapter: a}'],
  },
  {
    title: 'whole models have no adapter',
    broken: ['model={path: m, adapter: a}'],
    field: 'model.adapter',
    words: /it is used only with method\.name: lora or relora, not galore/,
    mended: ['model={path: m}'],
  },
];

testRules(RULES);

test('rank, targets and what is trained whole are filled in by method', (t) => {
  const { method, optimizer } = resolve(MINIMAL, LORA);
  t.is(method.rank, 8);
  t.deepEqual(method.target_modules, [...LORA_TARGETS]);
  t.deepEqual(method.modules_to_save, [...LORA_SAVED]);
  t.deepEqual(optimizer.betas, [0.9, 0.999]);
  const relora = resolve(MINIMAL, ...RELORA).method;
  t.is(relora.rank, undefined);
  t.deepEqual(relora.target_modules, ['attn', 'mlp']);
  t.deepEqual(relora.modules_to_save, [...RELORA_SAVED]);
  t.deepEqual(resolve(MINIMAL).method.target_modules, ['attn', 'mlp']);
});

test('an adapter is looked for where the command runs', (t) => {
  const { model } = resolve(MINIMAL, LORA, 'model={path: m, adapter: a}');
  t.true(model.adapter?.endsWith('/a') && model.adapter.startsWith('/'));
});
