import test from 'ava';
import { resolvedYaml } from '../../src/config/load.ts';
import { METHODS } from '../../src/config/schema.ts';
import { MINIMAL, refusal, resolve } from './parse.ts';
import { testRules, type BrokenRule } from './rule-tests.ts';

const RULES: readonly BrokenRule[] = [
  {
    title: 'a model without size or path needs all four shape fields',
    broken: ['model={hidden_size: 64, num_attention_heads: 4}'],
    field: 'model',
    mended: ['model={hidden_size: 64, num_attention_heads: 4, intermediate_size: 128, num_hidden_layers: 2}'],
  },
  {
    title: 'a model folder excludes fields that its config.json decides',
    broken: ['model={path: m, rope_theta: 500000}'],
    field: 'model.rope_theta',
    mended: ['model={path: m}'],
  },
  {
    title: 'every trainer there may be has a connection',
    broken: ['coordinator.max_trainers=300'],
    field: 'coordinator.max_trainers',
    words: /at most coordinator\.limits\.connections \(256\)/,
    mended: ['coordinator.max_trainers=300', 'coordinator.limits.connections=600'],
  },
  {
    title: 'trainers of this machine, which have one address, are not too many for it',
    broken: ['coordinator.local_trainers=5', 'coordinator.limits={connections_per_address: 4}'],
    field: 'coordinator.local_trainers',
    mended: ['coordinator.local_trainers=5', 'coordinator.limits={connections_per_address: 5}'],
  },
  {
    title: 'the hidden size is a multiple of the heads',
    broken: ['model.hidden_size=130', 'model.num_attention_heads=4'],
    field: 'model.hidden_size',
    mended: ['model.hidden_size=136', 'model.num_attention_heads=4'],
  },
  {
    title: 'a head has an even width',
    broken: ['model.hidden_size=12', 'model.num_attention_heads=4'],
    field: 'model.hidden_size',
    mended: ['model.hidden_size=16', 'model.num_attention_heads=4'],
  },
  {
    title: 'the heads are a multiple of the key heads',
    broken: ['model.num_attention_heads=4', 'model.num_key_value_heads=3'],
    field: 'model.num_attention_heads',
    mended: ['model.num_attention_heads=4', 'model.num_key_value_heads=2'],
  },
  {
    title: 'the model has a row for every token of a trained tokenizer',
    broken: ['model.vocab_size=1000', 'tokenizer.vocab_size=1001'],
    field: 'model.vocab_size',
    mended: ['model.vocab_size=1001', 'tokenizer.vocab_size=1001'],
  },
  {
    title: 'a tokenizer from a file needs the file',
    broken: ['tokenizer.type=file'],
    field: 'tokenizer.type',
    mended: ['tokenizer.type=file', 'tokenizer.path=tokenizer.json'],
  },
  {
    title: 'a tokenizer path is read only for type file',
    broken: ['tokenizer.path=tokenizer.json'],
    field: 'tokenizer.path',
    mended: ['tokenizer.path=tokenizer.json', 'tokenizer.type=file'],
  },
  {
    title: 'a model folder does not go with a newly trained tokenizer',
    broken: ['model={path: m}', 'tokenizer.type=bpe'],
    field: 'tokenizer.type',
    mended: ['model={path: m}', 'tokenizer.type=byte'],
  },
  {
    title: 'the rank is at most the hidden size',
    broken: ['model.hidden_size=64', 'method.rank=65'],
    field: 'method.rank',
    mended: ['model.hidden_size=64', 'method.rank=64'],
  },
  {
    title: 'an exact refresh has no power iterations',
    broken: ['method.refresh={type: exact, power_iterations: 1}'],
    field: 'method.refresh.power_iterations',
    mended: ['method.refresh={type: exact}'],
  },
  {
    title: 'an exact refresh has no oversampling',
    broken: ['method.refresh={type: exact, oversample: 4}'],
    field: 'method.refresh.oversample',
    mended: ['method.refresh={type: sketch, oversample: 4}'],
  },
  {
    title: 'nor has the exact refresh of the parity preset',
    broken: ['method={preset: parity, refresh: {oversample: 4}}'],
    field: 'method.refresh.oversample',
    mended: ['method={preset: parity, refresh: {oversample: 4, type: sketch}}'],
  },
  {
    title: 'a grace is for those who are not waited for',
    broken: ['coordinator.grace_ms=500'],
    field: 'coordinator.grace_ms',
    words: /coordinator\.grace_ms is 500; it is used only with a coordinator\.quorum other than all/,
    mended: ['coordinator.grace_ms=500', 'coordinator.quorum=75%'],
  },
  {
    title: 'a grace ends before the deadline',
    broken: ['coordinator.quorum=2', 'coordinator.step_deadline_ms=9000'],
    field: 'coordinator.grace_ms',
    words: /at most coordinator\.step_deadline_ms \(9000\)/,
    mended: ['coordinator.quorum=2', 'coordinator.step_deadline_ms=0'],
  },
  {
    title: 'a quorum is no more than there may be',
    broken: ['coordinator.quorum=65'],
    field: 'coordinator.quorum',
    mended: ['coordinator.quorum=64'],
  },
  {
    title: 'full rank has no bases',
    broken: ['method={name: full, basis: random}'],
    field: 'method.basis',
    mended: ['method={name: galore, basis: random}'],
  },
  {
    title: 'int8 weights are for matrices with a basis',
    broken: ['method={name: full, weights: int8}'],
    field: 'method.weights',
    mended: ['method={name: fira, weights: int8}'],
  },
  {
    title: 'LDAdam makes its own bases',
    broken: ['method={name: ldadam, basis: gaussian}'],
    field: 'method.basis',
    mended: ['method={name: ldadam}'],
  },
  {
    title: 'a basis is one that the method can use',
    broken: ['method={name: two-sided, basis: dct}'],
    field: 'method.basis',
    mended: ['method={name: two-sided, basis: svd}'],
  },
  {
    title: 'a method named for its basis keeps it',
    broken: ['method={name: flora, basis: svd}'],
    field: 'method.basis',
    mended: ['method={name: apollo, basis: svd}'],
  },
  {
    title: 'a method with a rule of its own has AdamW for the rest',
    broken: ['method.name=fira', 'optimizer.name=adafactor'],
    field: 'optimizer.name',
    mended: ['method.name=fira', 'optimizer.name=adamw-8bit'],
  },
  {
    title: 'APOLLO-Mini is of rank 1',
    broken: ['method={name: apollo-mini, rank: 4}'],
    field: 'method.rank',
    mended: ['method={name: apollo, rank: 4}'],
  },
  {
    title: 'two-sided bases have no one side',
    broken: ['method={name: two-sided, proj_type: left}'],
    field: 'method.proj_type',
    mended: ['method={name: two-sided}'],
  },
  {
    title: 'the second of two bases needs a power iteration',
    broken: ['method={name: two-sided, refresh: {power_iterations: 0}}'],
    field: 'method.refresh.power_iterations',
    mended: ['method={name: two-sided, refresh: {type: exact}}'],
  },
  {
    title: 'an exact refresh starts nowhere',
    broken: ['method.refresh={type: exact, warm_start: true}'],
    field: 'method.refresh.warm_start',
    mended: ['method.refresh={warm_start: true}'],
  },
  {
    title: 'a warm start saves a round where there are several',
    broken: ['method.refresh={power_iterations: 0, warm_start: true}'],
    field: 'method.refresh.warm_start',
    mended: ['method.refresh={power_iterations: 1, warm_start: true}'],
  },
  {
    title: 'bases from the seed have no warm start',
    broken: ['method={name: golore, refresh: {warm_start: true}}'],
    field: 'method.refresh.warm_start',
    mended: ['method={name: golore}'],
  },
  {
    title: 'bases from the seed are never kept for likeness',
    broken: ['method={basis: gaussian, refresh: {lazy_threshold: 0.4}}'],
    field: 'method.refresh.lazy_threshold',
    mended: ['method={basis: dct, refresh: {lazy_threshold: 0.4}}'],
  },
  {
    title: 'a basis that moves in every step is not refreshed early',
    broken: ['method={name: ldadam, refresh: {converged_ratio: 0.5}}'],
    field: 'method.refresh.converged_ratio',
    mended: ['method={name: galore, refresh: {converged_ratio: 0.5}}'],
  },
  {
    title: 'ranks adapt on one side',
    broken: ['method={name: two-sided, adaptive_rank: {threshold: 0.1}}'],
    field: 'method.adaptive_rank.threshold',
    mended: ['method={name: galore, adaptive_rank: {threshold: 0.1}}'],
  },
  {
    title: 'ranks adapt by singular values',
    broken: ['method={basis: random, adaptive_rank: {threshold: 0.1}}'],
    field: 'method.adaptive_rank.threshold',
    mended: ['method={basis: svd, adaptive_rank: {threshold: 0.1}}'],
  },
  {
    title: 'an adaptive rank is measured after a power iteration',
    broken: ['method={adaptive_rank: {threshold: 0.1}, refresh: {power_iterations: 0}}'],
    field: 'method.refresh.power_iterations',
    mended: ['method={adaptive_rank: {threshold: 0.1}, refresh: {type: exact}}'],
  },
  {
    title: 'the least rank is at most the greatest',
    broken: ['method={rank: 16, adaptive_rank: {threshold: 0.1, min_rank: 17}}'],
    field: 'method.adaptive_rank.min_rank',
    mended: ['method={rank: 16, adaptive_rank: {threshold: 0.1, min_rank: 16}}'],
  },
  {
    title: 'a multiple of ranks is at most the greatest',
    broken: ['method={rank: 16, adaptive_rank: {threshold: 0.1, multiple: 32}}'],
    field: 'method.adaptive_rank.multiple',
    mended: ['method={rank: 32, adaptive_rank: {threshold: 0.1, multiple: 32}}'],
  },
  {
    title: 'fixed ranks are measured by no probes',
    broken: ['method.adaptive_rank={probes: 4}'],
    field: 'method.adaptive_rank.probes',
    mended: ['method.adaptive_rank={probes: 4, threshold: 0.1}'],
  },
  {
    title: 'moments are not kept at another rank',
    broken: ['method={name: adarankgrad, moments: keep}'],
    field: 'method.moments',
    mended: ['method={name: adarankgrad, moments: adarank}'],
  },
  {
    title: 'the parity preset keeps moments, which adaptive ranks cannot',
    broken: ['method={preset: parity, adaptive_rank: {threshold: 0.1}}'],
    field: 'method.moments',
    mended: ['method={preset: parity, moments: reset, adaptive_rank: {threshold: 0.1}}'],
  },
  {
    title: 'moments are not transported between bases that are not orthonormal',
    broken: ['method={basis: gaussian, moments: transport}'],
    field: 'method.moments',
    mended: ['method={basis: gaussian}'],
  },
  {
    title: 'the numbers of Adafactor belong to Adafactor',
    broken: ['optimizer.adafactor={relative_step: true}'],
    field: 'optimizer.adafactor.relative_step',
    mended: ['optimizer={name: adafactor, adafactor: {relative_step: true}}'],
  },
  {
    title: 'Nesterov’s momentum is that of SGD',
    broken: ['optimizer.nesterov=true'],
    field: 'optimizer.nesterov',
    mended: ['optimizer={name: sgd, nesterov: true}'],
  },
  {
    title: 'Nesterov’s momentum is one',
    broken: ['optimizer={name: sgd, nesterov: true, momentum: 0}'],
    field: 'optimizer.nesterov',
    mended: ['optimizer={name: sgd, nesterov: true, momentum: 0.5}'],
  },
  {
    title: 'AdamW has betas in the place of momentum',
    broken: ['optimizer.momentum=0.5'],
    field: 'optimizer.momentum',
    mended: ['optimizer.momentum=0.5', 'method.name=sumo'],
  },
  {
    title: 'only wsd has a decay of so many steps',
    broken: ['optimizer.schedule={type: cosine, decay_steps: 5}'],
    field: 'optimizer.schedule.decay_steps',
    mended: ['optimizer.schedule={type: wsd, decay_steps: 5}'],
  },
  {
    title: 'the decay is no longer than the run',
    broken: ['optimizer.schedule={type: wsd, decay_steps: 61}'],
    field: 'optimizer.schedule.decay_steps',
    mended: ['optimizer.schedule={type: wsd, decay_steps: 60}'],
  },
  {
    title: 'warm-up and decay fit into the run together',
    broken: ['optimizer.schedule={type: wsd, warmup_steps: 31, decay_steps: 30}'],
    field: 'optimizer.schedule.warmup_steps',
    mended: ['optimizer.schedule={type: wsd, warmup_steps: 30, decay_steps: 30}'],
  },
  {
    title: 'a decay of a tenth of the run leaves the rest for the warm-up',
    broken: ['optimizer.schedule={type: wsd, warmup_steps: 55}'],
    field: 'optimizer.schedule.warmup_steps',
    mended: ['optimizer.schedule={type: wsd, warmup_steps: 54}'],
  },
  {
    title: 'the heartbeat timeout is more than two intervals',
    broken: ['coordinator.heartbeat_interval_ms=5000', 'coordinator.heartbeat_timeout_ms=10000'],
    field: 'coordinator.heartbeat_timeout_ms',
    mended: ['coordinator.heartbeat_interval_ms=5000', 'coordinator.heartbeat_timeout_ms=10001'],
  },
  {
    title: 'the run starts with at least the trainers it needs to go on',
    broken: ['coordinator.min_trainers=2'],
    field: 'coordinator.min_trainers',
    mended: ['coordinator.min_trainers=2', 'coordinator.start_trainers=2'],
  },
  {
    title: 'the run starts with at most the trainers it takes',
    broken: ['coordinator.start_trainers=5', 'coordinator.max_trainers=4'],
    field: 'coordinator.start_trainers',
    mended: ['coordinator.start_trainers=4', 'coordinator.max_trainers=4'],
  },
  {
    title: 'no more trainers are started here than the run takes',
    broken: ['coordinator.local_trainers=5', 'coordinator.max_trainers=4'],
    field: 'coordinator.local_trainers',
    mended: ['coordinator.local_trainers=4', 'coordinator.max_trainers=4'],
  },
  {
    title: 'every trainer gets a sequence of a step',
    broken: ['batch_size=2', 'coordinator.start_trainers=3'],
    field: 'coordinator.start_trainers',
    mended: ['batch_size=3', 'coordinator.start_trainers=3'],
  },
  {
    title: 'the sequences of a step fit one message',
    broken: ['seq_len=1000', 'batch_size=300'],
    field: 'batch_size',
    mended: ['seq_len=1000', 'batch_size=100'],
  },
  {
    title: 'a sequence fits one message',
    broken: ['seq_len=300000', 'batch_size=1'],
    field: 'seq_len',
    mended: ['seq_len=100000', 'batch_size=1'],
  },
];

testRules(RULES);

test('a rule says nothing about a field that is wrong by itself', (t) => {
  const { faults } = refusal(MINIMAL, 'batch_size=none', 'coordinator.start_trainers=60');
  t.deepEqual(
    faults.map((fault) => fault.field),
    ['batch_size'],
  );
});

test('every method resolves under every preset with every optimizer it takes, and what it resolves to loads again', (t) => {
  for (const name of METHODS) {
    for (const preset of ['recommended', 'parity']) {
      for (const optimizer of [null, 'adamw', 'adamw-8bit']) {
        const settings = [`method.name=${name}`, `method.preset=${preset}`];
        if (optimizer !== null) settings.push(`optimizer.name=${optimizer}`);
        if (name === 'relora') settings.push('method.merge_every=20');
        const config = resolve(MINIMAL, ...settings);
        t.deepEqual(resolve(resolvedYaml(config)), config, settings.join(' '));
      }
    }
  }
});

test('a conflict says which values go together', (t) => {
  const sentences = [
    [
      ['method={name: fira, basis: gaussian}'],
      /must be svd, dct or random with method\.name: fira, which adds/,
    ],
    [
      ['method={name: ldadam, refresh: {lazy_threshold: 1}}'],
      /left out with method\.name: ldadam, which moves/,
    ],
    [
      ['optimizer={momentum: 0.5}'],
      /only with optimizer\.name: sgd and method\.name: sumo; adamw has optimizer\.betas/,
    ],
  ] as const;
  for (const [settings, sentence] of sentences) t.regex(refusal(MINIMAL, ...settings).message, sentence);
});

test('full rank ignores the rank', (t) => {
  t.notThrows(() => resolve(MINIMAL, 'method.name=full', 'method.rank=999', 'model.hidden_size=64'));
});
