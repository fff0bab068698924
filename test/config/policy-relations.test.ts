import test from 'ava';
import { MINIMAL, resolve } from './parse.ts';
import { testRules, type BrokenRule } from './rule-tests.ts';

const GROUPS = 'method.param_groups';
const group = (name: string, fields: string): string =>
  `method={name: ${name}, param_groups: [{match: [embed_tokens], ${fields}}]}`;

const RULES: readonly BrokenRule[] = [
  {
    title: 'preset and method say the same',
    broken: ['preset=exact', 'method.name=power'],
    field: 'method.name',
    words: /method\.name is power; with preset: exact it is full; leave it out, or leave preset out/,
    mended: ['preset=balanced', 'method.name=power'],
  },
  {
    title: 'exact is f32 up and down',
    broken: ['preset=exact', 'wire.update_codec=int8'],
    field: 'wire.update_codec',
    words: /with preset: exact it is f32/,
    mended: ['preset=exact', 'wire={codec: f32, update_codec: f32}'],
  },
  {
    title: 'a preset is one that there is',
    broken: ['preset=fast'],
    field: 'preset',
    words: /exact, lean, balanced, wan, extreme/,
    mended: ['preset=wan'],
  },
  {
    title: 'power has no bases for one-sided groups; galore has power for others',
    broken: [group('power', 'policy: one-sided')],
    field: GROUPS,
    words:
      /param_groups\[0\]\.policy is one-sided; it must be power, dense, row-sparse or frozen .*use method\.name: galore/,
    mended: [group('galore', 'policy: power')],
  },
  {
    title: 'a rule that needs whole gradients does not get projected ones',
    broken: [group('fira', 'policy: two-sided')],
    field: GROUPS,
    words: /must be power, dense, row-sparse or frozen with method\.name: fira/,
    mended: [group('galore', 'policy: two-sided')],
  },
  {
    title: 'row-sparse keeps nothing',
    broken: [group('power', 'policy: row-sparse, feedback: payload')],
    field: GROUPS,
    words: /param_groups\[0\]\.feedback is payload; it must be none \(or left out\) with policy: row-sparse/,
    mended: [group('power', 'policy: row-sparse, feedback: none, codec: int4')],
  },
  {
    title: 'row-sparse has no rank',
    broken: [group('full', 'policy: row-sparse, rank: 8')],
    field: GROUPS,
    words: /param_groups\[0\]\.rank is 8; it must be left out: the policy is row-sparse, which has no rank/,
    mended: [group('full', 'policy: row-sparse')],
  },
  {
    title: 'two-sided groups need the second round',
    broken: ['method={refresh: {power_iterations: 0}, param_groups: [{match: [mlp], policy: two-sided}]}'],
    field: GROUPS,
    words: /power_iterations of at least 1/,
    mended: ['method={refresh: {power_iterations: 1}, param_groups: [{match: [mlp], policy: two-sided}]}'],
  },
  {
    title: 'two-sided groups need singular vectors',
    broken: ['method={basis: dct, param_groups: [{match: [mlp], policy: two-sided}]}'],
    field: GROUPS,
    words: /needs method\.basis: svd, not dct/,
    mended: ['method={basis: dct, param_groups: [{match: [mlp], policy: one-sided}]}'],
  },
  {
    title: 'a dense group has no rank',
    broken: [group('galore', 'policy: dense, rank: 4')],
    field: GROUPS,
    words: /param_groups\[0\]\.rank is 4; it must be left out: the policy is dense/,
    mended: [group('galore', 'policy: dense')],
  },
  {
    title: 'nor has any of full rank',
    broken: [group('full', 'rank: d/4')],
    field: GROUPS,
    words: /rank is d\/4; it must be left out/,
    mended: [group('full', 'rank: d/4, policy: power')],
  },
  {
    title: 'a rank of a group is at most the hidden size',
    broken: ['model.hidden_size=64', group('power', 'rank: 65')],
    field: GROUPS,
    words: /at most model\.hidden_size \(64\)/,
    mended: ['model.hidden_size=64', group('power', 'rank: 64')],
  },
  {
    title: 'the rank of APOLLO-Mini is 1, however it is written',
    broken: ['method={name: apollo-mini, rank: d/4}'],
    field: 'method.rank',
    words: /must be 1/,
    mended: ['method={name: apollo-mini, rank: 1}'],
  },
  {
    title: 'also in a group',
    broken: [group('apollo-mini', 'rank: d/4')],
    field: GROUPS,
    words: /must be 1/,
    mended: [group('apollo-mini', 'rank: 1')],
  },
  {
    title: 'what is frozen has no codec',
    broken: [group('galore', 'policy: frozen, codec: int8')],
    field: GROUPS,
    words: /codec is int8; it must be left out with policy: frozen/,
    mended: [group('galore', 'policy: frozen')],
  },
  {
    title: 'power is made of feedback',
    broken: [group('power', 'feedback: none')],
    field: GROUPS,
    words: /feedback is none; it must be gradient/,
    mended: [group('power', 'feedback: gradient')],
  },
  {
    title: 'what a core leaves out is not kept, in a group',
    broken: [group('galore', 'policy: two-sided, feedback: gradient')],
    field: GROUPS,
    words: /feedback is gradient; it must be payload or none with policy two-sided/,
    mended: [group('galore', 'policy: one-sided, feedback: gradient')],
  },
  {
    title: 'nor for the whole method',
    broken: ['method={name: two-sided, feedback: gradient}'],
    field: 'method.feedback',
    words: /must be payload or none with policy two-sided/,
    mended: ['method={name: two-sided, feedback: payload}'],
  },
  {
    title: 'nor in a group that has it from the method',
    broken: ['method={feedback: gradient, param_groups: [{match: [mlp], policy: two-sided}]}'],
    field: GROUPS,
    words: /policy is two-sided; it needs a feedback of its own, payload or none/,
    mended: [
      'method={feedback: gradient, param_groups: [{match: [mlp], policy: two-sided, feedback: none}]}',
    ],
  },
  {
    title: 'whole gradients are kept beside orthonormal bases',
    broken: ['method={basis: gaussian, feedback: gradient}'],
    field: 'method.feedback',
    words: /gaussian bases, which are not orthonormal: what is kept would grow/,
    mended: ['method={basis: random, feedback: gradient}'],
  },
  {
    title: 'also where the method has these bases by itself',
    broken: [group('flora', 'policy: one-sided, feedback: gradient')],
    field: GROUPS,
    words: /gaussian bases/,
    mended: [group('golore', 'policy: one-sided, feedback: gradient')],
  },
  {
    title: 'AdaRankGrad follows the norm of what is sent',
    broken: ['method={name: adarankgrad, feedback: gradient}'],
    field: 'method.feedback',
    words: /with method\.name: adarankgrad/,
    mended: ['method={name: q-galore, feedback: gradient}'],
  },
  {
    title: 'and so does the ratio of convergence',
    broken: ['method={feedback: gradient, refresh: {converged_ratio: 0.5}}'],
    field: 'method.refresh.converged_ratio',
    words: /left out with feedback: gradient/,
    mended: ['method={feedback: payload, refresh: {converged_ratio: 0.5}}'],
  },
  {
    title: 'a displacement leaves nothing out',
    broken: ['local_steps.count=4', 'method.feedback=gradient'],
    field: 'method.feedback',
    words: /with local_steps\.count above 1/,
    mended: ['local_steps.count=4', 'method.feedback=payload'],
  },
  {
    title: 'the dtype of an error is for those that keep one',
    broken: ['method={feedback: payload, feedback_dtype: f32}'],
    field: 'method.feedback_dtype',
    words: /only with method\.name: power .*or feedback: gradient of matrices that are one-sided/,
    mended: ['method={feedback: gradient, feedback_dtype: f32}'],
  },
  {
    title: 'sums of power are not cut',
    broken: ['method.name=power', 'optimizer.max_grad_norm=1'],
    field: 'optimizer.max_grad_norm',
    words: /left out with power: what it cuts off the sum no trainer keeps; method\.update_clip/,
    mended: ['method={name: power, update_clip: 1}'],
  },
  {
    title: 'nor are those of error feedback',
    broken: ['method.feedback=payload', 'optimizer.max_grad_norm=1'],
    field: 'optimizer.max_grad_norm',
    words: /left out with error feedback/,
    mended: ['optimizer.max_grad_norm=1'],
  },
  {
    title: 'which comes with int4',
    broken: ['wire.codec=int4', 'optimizer.max_grad_norm=1'],
    field: 'optimizer.max_grad_norm',
    words: /left out with codec int4/,
    mended: ['wire.codec=bf16', 'optimizer.max_grad_norm=1'],
  },
  {
    title: 'only what power keeps can be sent before the gradient is known',
    broken: ['wire.overlap=delayed'],
    field: 'wire.overlap',
    words: /only with method\.name: power or a group with policy: power/,
    mended: ['method.name=power', 'wire.overlap=delayed'],
  },
  {
    title: 'power has a rule of its own',
    broken: ['method.name=power', 'optimizer.name=sgd'],
    field: 'optimizer.name',
    words: /adamw or adamw-8bit with method\.name: power/,
    mended: ['method.name=power', 'optimizer.name=adamw-8bit'],
  },
  {
    title: 'in a group, too',
    broken: [group('galore', 'policy: power'), 'optimizer.name=adafactor'],
    field: 'optimizer.name',
    words: /a group with policy: power/,
    mended: [group('galore', 'policy: power')],
  },
  ...(
    [
      ['method.proj_type', 'left', 'std'],
      ['method.weights', 'int8', 'f32'],
      ['method.moments', 'reset', 'transport'],
      ['method.refresh.type', 'exact', 'sketch'],
      ['method.refresh.stagger', 'false', 'true'],
      ['method.refresh.oversample', '4', '8'],
      ['method.refresh.power_iterations', '2', '1'],
    ] as const
  ).map(([field, value, mended]) => ({
    title: `power has no use for ${field}`,
    broken: ['method.name=power', `${field}=${value}`],
    field,
    words: /must be left out with method\.name: power/,
    mended: ['method.name=power', `${field}=${mended}`],
  })),
  {
    title: 'power has no adaptive ranks',
    broken: ['method={name: power, adaptive_rank: {threshold: 0.1}}'],
    field: 'method.adaptive_rank.threshold',
    words: /left out with method\.name: power/,
    mended: ['method={name: power}'],
  },
  {
    title: 'buffers of power are for power',
    broken: ['method.moment_dtype=f32'],
    field: 'method.moment_dtype',
    words: /only with method\.name: power or a group with policy: power/,
    mended: ['method={moment_dtype: f32, param_groups: [{match: [lm_head], policy: power}]}'],
  },
];

testRules(RULES);

test('with whole gradients kept a refresh resets the moments, unless the file or the preset says otherwise', (t) => {
  const moments = (settings: string): string => resolve(MINIMAL, settings).method.moments;
  t.is(moments('method={feedback: gradient}'), 'reset');
  t.is(moments('method={feedback: gradient, moments: transport}'), 'transport');
  t.is(moments('method={feedback: gradient, preset: parity}'), 'keep');
  t.is(moments('method={feedback: payload}'), 'transport');
});

test('int4 without feedback is had by saying so', (t) => {
  t.notThrows(() => resolve(MINIMAL, 'wire.codec=int4', group('galore', 'feedback: none')));
});
