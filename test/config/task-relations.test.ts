import { testRules, type BrokenRule } from './rule-tests.ts';

const BERT = 'model={path: bert}';
const CLASSIFY = 'task={type: sequence-classification, labels: [ham, spam]}';
const BYTES = 'tokenizer.type=byte';

const RULES: readonly BrokenRule[] = [
  {
    title: 'data of the trainers are not named in the run file',
    broken: ['data.local=true', BYTES],
    field: 'data.path',
    words: /cannot be given with data\.local: every trainer names its own file \(galore trainer --data\)/,
    mended: ['data={local: true}', BYTES],
  },
  {
    title: 'no tokenizer is trained on data that stay where they are',
    broken: ['data={local: true}'],
    field: 'tokenizer.type',
    words: /with data\.local it must be file or byte/,
    mended: ['data={local: true}', BYTES],
  },
  {
    title: 'rows that travel would name the tokens of a site',
    broken: [
      'data={local: true}',
      BYTES,
      'method.param_groups=[{match: [embed_tokens], policy: row-sparse}]',
    ],
    field: 'method.param_groups[0].policy',
    words: /name the tokens of a site; frozen tells nothing of them/,
    mended: ['data={local: true}', BYTES, 'method.param_groups=[{match: [embed_tokens], policy: frozen}]'],
  },
  {
    title: 'what every site has of its own is not shared out by pace',
    broken: ['data={local: true}', BYTES, 'coordinator.sharding=adaptive'],
    field: 'coordinator.sharding',
    words: /with data\.local it must be equal or examples/,
    mended: ['data={local: true}', BYTES, 'coordinator.sharding=examples'],
  },
  {
    title: "shares of the coordinator's data do not go by what sites have",
    broken: ['coordinator.sharding=examples'],
    field: 'coordinator.sharding',
    words: /without data\.local it must be equal or adaptive/,
    mended: ['coordinator.sharding=adaptive'],
  },
  {
    title: 'the share of one site fits an assignment',
    broken: [
      'data={local: true}',
      BYTES,
      'coordinator={sharding: examples, max_trainers: 64}',
      'batch_size=1025',
    ],
    field: 'batch_size',
    words: /at most 1024: times coordinator\.max_trainers \(64\) at most 65536/,
    mended: [
      'data={local: true}',
      BYTES,
      'coordinator={sharding: examples, max_trainers: 64}',
      'batch_size=1024',
    ],
  },
  {
    title: 'to classify takes labels',
    broken: [BERT, 'task.type=sequence-classification', BYTES],
    field: 'task.labels',
    mended: [BERT, CLASSIFY, BYTES],
  },
  {
    title: 'labels are for classification alone',
    broken: ['task.labels=[a, b]'],
    field: 'task.labels',
    mended: [BERT, CLASSIFY, BYTES],
  },
  {
    title: 'labels differ',
    broken: [BERT, 'task={type: sequence-classification, labels: [ham, spam, ham]}', BYTES],
    field: 'task.labels',
    words: /"ham" is there twice/,
    mended: [BERT, CLASSIFY, BYTES],
  },
  {
    title: 'labelled examples are no plain text',
    broken: [BERT, CLASSIFY, BYTES, 'data.format=text'],
    field: 'data.format',
    words: /it must be auto or jsonl/,
    mended: [BERT, CLASSIFY, BYTES, 'data.format=jsonl'],
  },
  {
    title: 'only sequences that travel must fit a message',
    broken: ['seq_len=1000', 'batch_size=300'],
    field: 'batch_size',
    mended: ['seq_len=1000', 'batch_size=300', 'data={local: true}', BYTES],
  },
];

testRules(RULES);
