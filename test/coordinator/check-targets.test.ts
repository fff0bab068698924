import test from 'ava';
import { checkTargets } from '../../src/coordinator/check-targets.ts';
import { trafficNotice } from '../../src/coordinator/traffic-notice.ts';
import { ConfigError } from '../../src/errors.ts';
import { tinyRun } from './tiny-run.ts';

/** The fields and the words of what is wrong; hidden size 16, MLP 24, two of four heads for keys and values. */
function faultsOf(...settings: readonly string[]): [string, string][] {
  const { config, shape } = tinyRun(...settings);
  try {
    checkTargets(config, shape.slots);
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
