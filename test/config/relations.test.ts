import test from 'ava';
import { MINIMAL, refusal, resolve } from './parse.ts';

/** Settings that break one rule, the field that is blamed, and a setting that mends it. */
const RULES: readonly {
  readonly title: string;
  readonly broken: readonly string[];
  readonly field: string;
  readonly mended: readonly string[];
}[] = [
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

for (const { title, broken, field, mended } of RULES) {
  test(title, (t) => {
    const { faults, message } = refusal(MINIMAL, ...broken);
    t.deepEqual(
      faults.map((fault) => fault.field),
      [field],
      message,
    );
    t.notThrows(() => resolve(MINIMAL, ...mended));
  });
}

test('a rule says nothing about a field that is wrong by itself', (t) => {
  const { faults } = refusal(MINIMAL, 'batch_size=none', 'coordinator.start_trainers=60');
  t.deepEqual(
    faults.map((fault) => fault.field),
    ['batch_size'],
  );
});

test('full rank ignores the rank', (t) => {
  t.notThrows(() => resolve(MINIMAL, 'method.name=full', 'method.rank=999', 'model.hidden_size=64'));
});
