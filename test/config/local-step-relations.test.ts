import test from 'ava';
import { checkResumable } from '../../src/config/resumable.ts';
import { METHODS } from '../../src/config/schema.ts';
import { ConfigError } from '../../src/errors.ts';
import { MINIMAL, resolve } from './parse.ts';
import { testRules, type BrokenRule } from './rule-tests.ts';

const H = 'local_steps.count=8';
const SITES = ['data={local: true}', 'tokenizer.type=byte'];

const RULES: readonly BrokenRule[] = [
  {
    title: 'a method with whole gradients has none',
    broken: [H, 'method.name=fira'],
    field: 'local_steps.count',
    words:
      /local_steps\.count is 8; it must be 1 \(or left out\) with method\.name: fira, which needs the whole summed gradient in every step; local steps are for galore, golore, two-sided or full/,
    mended: ['method.name=fira'],
  },
  {
    title: 'row-sparse has none',
    broken: [H, 'method.param_groups=[{match: [embed_tokens], policy: row-sparse}]'],
    field: 'local_steps.count',
    words: /with method\.param_groups\[0\]\.policy: row-sparse, which sends gradients, not displacements/,
    mended: [H, 'method.param_groups=[{match: [embed_tokens], policy: dense}]'],
  },
  {
    title: 'power has none, in a group either',
    broken: [H, 'method.param_groups=[{match: [mlp], policy: dense}, {match: [lm_head], policy: power}]'],
    field: 'local_steps.count',
    words: /with method\.param_groups\[1\]\.policy: power, which moves .*; give the group another policy/,
    mended: [H, 'method.param_groups=[{match: [mlp], policy: dense}]'],
  },
  {
    title: 'Adafactor has none',
    broken: [H, 'optimizer.name=adafactor'],
    field: 'optimizer.name',
    words: /must be adamw, adamw-8bit or sgd with local_steps\.count above 1/,
    mended: [H, 'optimizer.name=adamw-8bit'],
  },
  {
    title: 'the decay of sgd is part of its gradients',
    broken: [H, 'optimizer={name: sgd, weight_decay: 0.1}'],
    field: 'optimizer.weight_decay',
    words: /must be 0 with optimizer\.name: sgd and local steps/,
    mended: [H, 'optimizer={name: adamw, weight_decay: 0.1}'],
  },
  {
    title: 'int8 weights have no room for displacements',
    broken: [H, 'method.weights=int8'],
    field: 'method.weights',
    words: /must be f32 \(or left out\) with local_steps\.count above 1/,
    mended: [H, 'method.weights=f32'],
  },
  {
    title: 'ranks stay',
    broken: [H, 'method.adaptive_rank.threshold=0.1'],
    field: 'method.adaptive_rank.threshold',
    words: /must be left out with local_steps\.count above 1/,
    mended: [H],
  },
  {
    title: 'no summed gradient tells of convergence',
    broken: [H, 'method.refresh.converged_ratio=0.5'],
    field: 'method.refresh.converged_ratio',
    words: /must be left out with local_steps\.count above 1/,
    mended: ['method.refresh.converged_ratio=0.5'],
  },
  {
    title: 'no summed gradient is there to be clipped',
    broken: [H, 'optimizer.max_grad_norm=1'],
    field: 'optimizer.max_grad_norm',
    words: /what is summed are displacements, not gradients/,
    mended: ['optimizer.max_grad_norm=1'],
  },
  {
    title: 'an outer optimizer needs local steps',
    broken: ['local_steps.outer=adam'],
    field: 'local_steps.outer',
    words: /used only with local_steps\.count above 1/,
    mended: [H, 'local_steps.outer=adam'],
  },
  {
    title: 'an outer learning rate needs local steps',
    broken: ['local_steps.outer_lr=0.5'],
    field: 'local_steps.outer_lr',
    words: /used only with local_steps\.count above 1/,
    mended: [H, 'local_steps.outer_lr=0.5'],
  },
  {
    title: 'an outer momentum needs nesterov',
    broken: [H, 'local_steps.outer_momentum=0.5'],
    field: 'local_steps.outer_momentum',
    words: /used only with local_steps\.outer: nesterov/,
    mended: [H, 'local_steps={outer: nesterov, outer_momentum: 0.5, count: 8}'],
  },
  {
    title: 'averaged moments need local steps',
    broken: ['local_steps.moments=averaged'],
    field: 'local_steps.moments',
    words: /used only with local_steps\.count above 1/,
    mended: [H, 'local_steps.moments=averaged'],
  },
  {
    title: 'periods of moments need moments that are averaged',
    broken: [H, 'local_steps.moment_periods=[1, 2]'],
    field: 'local_steps.moment_periods',
    words: /used only with local_steps\.moments: averaged/,
    mended: [H, 'local_steps={count: 8, moments: averaged, moment_periods: [1, 2]}'],
  },
  {
    title: 'second moments travel with the first',
    broken: [H, 'local_steps={count: 8, moments: averaged, moment_periods: [4, 6]}'],
    field: 'local_steps.moment_periods',
    words: /the second must be a multiple of the first, such as \[4, ?8\]/,
    mended: [H, 'local_steps={count: 8, moments: averaged, moment_periods: [4, 8]}'],
  },
  {
    title: 'moments in 8 bits are not averaged',
    broken: [H, 'local_steps.moments=averaged', 'optimizer.name=adamw-8bit'],
    field: 'local_steps.moments',
    words: /must be local \(or left out\) with optimizer\.name: adamw-8bit, whose moments are codes/,
    mended: [H, 'local_steps.moments=averaged', 'optimizer.name=adamw'],
  },
  {
    title: 'without moments none are averaged',
    broken: [H, 'local_steps.moments=averaged', 'optimizer={name: sgd, momentum: 0}'],
    field: 'local_steps.moments',
    words: /optimizer\.momentum: 0, which leaves nothing to average/,
    mended: [H, 'local_steps.moments=averaged', 'optimizer={name: sgd, momentum: 0.9}'],
  },
  {
    title: 'fresh moments need local steps',
    broken: ['local_steps.moments=reset'],
    field: 'local_steps.moments',
    words: /used only with local_steps\.count above 1/,
    mended: [H, 'local_steps.moments=reset'],
  },
  {
    title: 'the proximal term needs local steps',
    broken: ['local_steps.proximal_mu=0.1'],
    field: 'local_steps.proximal_mu',
    words: /used only with local_steps\.count above 1/,
    mended: [H, 'local_steps.proximal_mu=0.1'],
  },
  {
    title: 'the proximal term needs distances',
    broken: [H, 'local_steps.proximal_mu=0.1', 'method.basis=gaussian'],
    field: 'local_steps.proximal_mu',
    words: /must be 0 with gaussian bases, which are not orthonormal/,
    mended: [H, 'local_steps.proximal_mu=0.1', 'method.basis=random'],
  },
  {
    title: 'examples are counted where they are',
    broken: ['local_steps.weighting=examples'],
    field: 'local_steps.weighting',
    words: /targets or equal \(or left out\) without data\.local: .* no sites with so many examples/,
    mended: [...SITES, 'local_steps.weighting=examples'],
  },
  {
    title: 'power sums what is weighted by targets',
    broken: ['method.name=power', 'local_steps.weighting=equal'],
    field: 'local_steps.weighting',
    words: /must be targets \(or left out\) with power: those contributions are parts of a sum/,
    mended: ['method.name=power', 'local_steps.weighting=targets'],
  },
  {
    title: 'so does feedback',
    broken: ['method.param_groups=[{match: [mlp], feedback: payload}]', 'local_steps.weighting=equal'],
    field: 'local_steps.weighting',
    words: /with feedback: payload/,
    mended: ['local_steps.weighting=equal'],
  },
  {
    title: 'sites cannot know what part of a sum is theirs',
    broken: [...SITES, 'wire.codec=int4'],
    field: 'data.local',
    words: /must be false with codec int4, which has error feedback/,
    mended: [...SITES, 'wire.codec=int8'],
  },
  {
    title: 'the sequences of all local steps travel in one message',
    broken: [H, 'seq_len=1000', 'batch_size=100'],
    field: 'batch_size',
    words:
      /with seq_len 1000 and local_steps\.count 8 it must be at most 26: the sequences of all local steps/,
    mended: [H, 'seq_len=1000', 'batch_size=26'],
  },
];

testRules(RULES);

test('every method either takes local steps or is refused with one fault that names it', (t) => {
  const able = METHODS.filter((name) => {
    try {
      resolve(MINIMAL, H, `method.name=${name}`);
      return true;
    } catch (error) {
      const { faults } = error as ConfigError;
      const why = faults.filter(({ field }) => field === 'local_steps.count');
      t.is(why.length, 1, name);
      t.regex(why[0]!.allowed, new RegExp(`method\\.name: ${name}, which|whose`));
      return false;
    }
  });
  t.deepEqual(able, ['galore', 'full', 'two-sided', 'golore']);
});

test('outer rates are those that were published for nesterov, and change nothing otherwise', (t) => {
  const outerOf = (outer: string) => {
    const { local_steps: local } = resolve(MINIMAL, H, `local_steps.outer=${outer}`);
    return [local.outer_lr, local.outer_momentum];
  };
  t.deepEqual(['none', 'nesterov', 'adam'].map(outerOf), [
    [1, 0.9],
    [0.7, 0.9],
    [1, 0.9],
  ]);
});

test('a run that goes on keeps its local steps', (t) => {
  const saved = resolve(MINIMAL, H);
  const error = t.throws(() => checkResumable(saved, resolve(MINIMAL, 'local_steps.count=4')), {
    instanceOf: ConfigError,
  });
  t.regex(
    error.message,
    /local_steps\.count is 4; it stays 8: a step of the journal is so many optimizer steps/,
  );
});

test('contributions count by targets where the coordinator has the data, and by examples where sites have', (t) => {
  t.is(resolve(MINIMAL).local_steps.weighting, 'targets');
  t.is(resolve(MINIMAL, ...SITES).local_steps.weighting, 'examples');
  t.is(resolve(MINIMAL, ...SITES, 'local_steps.weighting=equal').local_steps.weighting, 'equal');
});
