import test from 'ava';
import { checkTargets } from '../../src/coordinator/check-targets.ts';
import { trafficNotice } from '../../src/coordinator/traffic-notice.ts';
import { ConfigError } from '../../src/errors.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { tinyConfig } from '../helpers/tiny-llama.ts';
import { tinyRun, type TinyRun } from './tiny-run.ts';

/** The fields and the words of what is wrong; hidden size 16, MLP 24, two of four heads for keys and values. */
function faultsOf(...settings: readonly string[]): [string, string][] {
  return faultsOfRun(tinyRun(...settings));
}

function faultsOfRun({ config, shape }: Pick<TinyRun, 'config' | 'shape'>): [string, string][] {
  try {
    checkTargets(config, shape);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.faults.map(({ field, value, allowed }) => [field, `${value}; ${allowed}`]);
  }
}

test('target modules that no matrix has are named, with those there are', (t) => {
  t.deepEqual(faultsOf(), []);
  t.deepEqual(faultsOf('method.target_modules=[layers.1, lm_head, embed_tokens]'), []);
  t.deepEqual(faultsOf('method.target_modules=[attn, ffn, norm]'), [
    [
      'method.target_modules',
      'ffn, norm; no matrix of the model has that in its name; there are embed_tokens, self_attn.q_proj, ' +
        'self_attn.k_proj, self_attn.v_proj, self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, lm_head',
    ],
  ]);
});

test('a rank that no target matrix can have is refused, one that some are too small for is cut there', (t) => {
  t.deepEqual(faultsOf('method.rank=16'), []);
  t.deepEqual(faultsOf('method.rank=17'), [
    ['method.rank', '17; it must be at most 16: no target matrix has a longer smaller side'],
  ]);
  t.deepEqual(faultsOf('method.rank=9', 'method.target_modules=[k_proj]')[0]?.[0], 'method.rank');
  t.deepEqual(faultsOf('method.rank=17', 'method.name=full'), []);
});

test('the least of adaptive ranks is held against the rank that follows from the model', (t) => {
  t.deepEqual(faultsOf('method.adaptive_rank={threshold: 0.1, min_rank: 4, multiple: 4}'), []);
  t.deepEqual(faultsOf('method={rank: null, adaptive_rank: {threshold: 0.1, min_rank: 5}}'), [
    ['method.adaptive_rank.min_rank', '5; it must be at most 4, the greatest rank (method.rank)'],
  ]);
});

test('a budget that rank 1 does not reach is refused with what it reaches, and so is one without ranks', (t) => {
  t.deepEqual(faultsOf('method.rank_budget=1.5'), []);
  const [[field, words] = ['', '']] = faultsOf('method.rank_budget=40');
  t.is(field, 'method.rank_budget');
  t.regex(words, /^40; with rank 1 everywhere it is [\d.]+: let more tensors have a rank/);
  t.deepEqual(faultsOf('method.name=full', 'method.rank_budget=40'), [
    ['method.rank_budget', '40; it must be left out: no tensor has a rank'],
  ]);
});

const group = (fields: string): string => `method={name: galore, rank: 4, param_groups: [${fields}]}`;

test('a group that matches nothing is named, with the tensors there are', (t) => {
  t.deepEqual(faultsOf(group('{match: [norm]}')), []);
  const [[field, words] = ['', '']] = faultsOf(
    group('{match: [mlp], rank: 2}, {match: [attn, ffn, experts]}'),
  );
  t.is(field, 'method.param_groups[1].match');
  t.regex(
    words,
    /^ffn, experts; no tensor of the model has that in its name; there are embed_tokens, self_attn.q_proj,.* input_layernorm,/,
  );
  t.is(faultsOf('method={name: full, param_groups: [{match: [ffn], scale: 2}]}').length, 1);
});

test('a rank above the sides of the matrices of a group is refused, whatever its policy', (t) => {
  t.deepEqual(faultsOf(group('{match: [k_proj], rank: 8}')), []);
  for (const policy of ['one-sided', 'two-sided', 'power']) {
    t.deepEqual(faultsOf(group(`{match: [k_proj], policy: ${policy}, rank: 9}`)), [
      [
        'method.param_groups[0].rank',
        '9; it must be at most 8: none of its matrices has a longer smaller side',
      ],
    ]);
  }
  t.deepEqual(
    faultsOf('method={name: power, rank: 17}').map(([field]) => field),
    ['method.rank'],
  );
});

test('a run in which everything is frozen is refused', (t) => {
  t.deepEqual(faultsOf(group('{match: [model, lm_head], policy: frozen}')), [
    [
      'method.param_groups',
      'policy: frozen for all tensors; at least one tensor must be trained: every one is frozen',
    ],
  ]);
});

test('tied embeddings are matched by embed_tokens; lm_head beside it is no fault, alone it is', (t) => {
  const tied = (settings: string): [string, string][] => {
    const { config } = tinyRun(settings);
    return faultsOfRun({ config, shape: buildRunShape(config, tinyConfig({ tieWordEmbeddings: true })) });
  };
  t.deepEqual(tied(group('{match: [embed_tokens, lm_head], policy: power}')), []);
  t.deepEqual(tied('method={name: power, rank: 4, target_modules: [attn, embed_tokens, lm_head]}'), []);
  const alone = tied(group('{match: [lm_head], policy: power}'));
  t.is(alone[0]?.[0], 'method.param_groups[0].match');
  t.regex(alone[0]?.[1] ?? '', /embeddings are tied: embed_tokens is the output layer, too/);
  t.is(tied('method={name: power, rank: 4, target_modules: [attn, lm_head]}').length, 1);
});

test('row-sparse is for input embeddings alone, and not for tied ones', (t) => {
  const faults = (match: string): [string, string][] =>
    faultsOf(group(`{match: [${match}], policy: row-sparse}`));
  t.deepEqual(faults('embed_tokens'), []);
  for (const [match, others] of [
    ['embed_tokens, lm_head', 'lm_head'],
    ['norm', 'input_layernorm, post_attention_layernorm, norm'],
    ['k_proj', 'self_attn.k_proj'],
  ] as const) {
    const why = `its group matches ${others}, too: give them a group of their own`;
    const rule = `row-sparse; it is for the input embedding embed_tokens alone; ${why}`;
    t.deepEqual(faults(match), [['method.param_groups[0].policy', rule]]);
  }
  // The first group that matches counts: this one is left with the embedding.
  const both = group(
    '{match: [lm_head], policy: dense}, {match: [embed_tokens, lm_head], policy: row-sparse}',
  );
  t.deepEqual(faultsOf(both), []);
  const { config } = tinyRun(group('{match: [embed_tokens], policy: row-sparse}'));
  const tied = { config, shape: buildRunShape(config, tinyConfig({ tieWordEmbeddings: true })) };
  t.regex(faultsOfRun(tied)[0]?.[1] ?? '', /it is tied to the output layer, .* use dense or power/);
});

test('methods that need whole gradients say how much travels', (t) => {
  const notice = (...settings: readonly string[]): string | null => {
    const { config, shape } = tinyRun(...settings);
    return trafficNotice(config, shape);
  };
  // 2 x 19 x 16; 2 layers of 2 x 256 + 2 x 128 + 3 x 384 + 2 x 16; a norm of 16: 4528 numbers of 4 bytes
  for (const name of ['fira', 'apollo', 'ldadam']) {
    t.is(
      notice(`method.name=${name}`, 'method.rank=4'),
      `method ${name} needs whole gradients: every matrix travels dense, 19 kB a trainer and step; ` +
        'made for a single trainer or a fast network',
    );
  }
  for (const name of ['full', 'galore', 'two-sided']) t.is(notice(`method.name=${name}`), null);
});
