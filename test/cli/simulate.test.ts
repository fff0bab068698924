import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { world } from './fakes.ts';

const FAST = ['--seconds-per-sequence', '0.5', '--steps', '6'];

test('galore simulate prints where the seconds of a step go and what passes through each place', async (t) => {
  const { out, err, run } = world(t);
  const line = [
    '--model',
    '60m',
    '--preset',
    'wan',
    '--trainers',
    '2',
    '--up',
    '20mbit',
    '--down',
    '100mbit',
  ];
  t.is(await run('simulate', ...line, ...FAST), 0, err.text);
  t.regex(out.text, /^run: +58\.1M parameters, wan, sequences of 256 tokens, 4 a step$/m);
  t.regex(out.text, /^steps: +6; 2\.\d+ s each/m);
  t.regex(out.text, /download +apply +compute +upload +gateway +coordinator +step/);
  t.regex(out.text, /^coordinator +7\.\d MB +7\.\d MB/m);
  t.regex(out.text, /^a trainer +3\.7 MB +3\.7 MB/m);
});

test('galore simulate tries every number of trainers with every number of gateways, and plots them', async (t) => {
  const { dir, out, err, run } = world(t);
  const sweep = ['--trainers', '4,16,64', '--gateways', '0,4', '--coordinator-rate', '100mbit'];
  t.is(await run('simulate', ...sweep, ...FAST, '--json', '--svg', 'scale.svg'), 0, err.text);
  const { points } = JSON.parse(out.text) as {
    points: { trainers: number; gateways: number; secondsPerStep: number; coordinator: object }[];
  };
  t.deepEqual(
    points.map(({ trainers, gateways }) => [trainers, gateways]),
    [4, 16, 64].map((n) => [n, 0]).concat([4, 16, 64].map((n) => [n, 4])),
  );
  const at = (trainers: number, gateways: number): number =>
    points.find((point) => point.trainers === trainers && point.gateways === gateways)!.secondsPerStep;
  t.true(at(64, 0) > 4 * at(4, 0), 'the link of the coordinator is shared by all');
  t.true(at(64, 4) < at(64, 0) / 2, 'and by four gateways');
  const svg = readFileSync(join(dir, 'scale.svg'), 'utf8');
  t.regex(svg, /no gateways/);
  t.regex(svg, /4 gateways/);
});

test('galore simulate takes the run from its file and the trainers from a scenario', async (t) => {
  const { dir, out, err, run } = world(t);
  writeFileSync(join(dir, 'run.yaml'), 'name: p\nmodel: 9m\ndata: {path: none}\nsteps: 100\nbatch_size: 8\n');
  writeFileSync(
    join(dir, 'world.yaml'),
    `trainers:
  count: 8
  kinds:
    - {name: home, share: 3, up: {lognormal: {median: 20mbit, sigma: 0.5}}, flops: 1e12}
    - {name: lab, share: 1, up: 1gbit, down: 1gbit, seconds_per_sequence: {uniform: [0.1, 0.2]}}
gateways: {count: 2}
`,
  );
  t.is(
    await run('simulate', 'run.yaml', '--scenario', 'world.yaml', '--steps', '5', '--seed', '3'),
    0,
    err.text,
  );
  t.regex(out.text, /8 trainers behind 2 gateways/);
  t.regex(out.text, /^a gateway /m);
  const first = out.text;
  t.is(await run('simulate', 'run.yaml', '--scenario', 'world.yaml', '--steps', '5', '--seed', '3'), 0);
  t.is(out.text, first + first, 'the same seed gives the same');
});

test('galore simulate says what is wrong with a scenario, and where', async (t) => {
  const { dir, err, run } = world(t);
  const text =
    'trainers:\n  count: 4\n  kinds:\n    - {up: 20, speed: 3}\n    - {flops: 1, seconds_per_sequence: 1}\n';
  writeFileSync(join(dir, 'w.yaml'), `${text}gateways: {count: 9}\n`);
  t.is(await run('simulate', '--scenario', 'w.yaml'), 2);
  t.regex(err.text, /line \d: trainers\.kinds\.0\.up is 20; allowed: .*such as 100mbit, or \{uniform/);
  t.regex(err.text, /line \d: unknown field trainers\.kinds\.0\.speed/);
  writeFileSync(join(dir, 'w.yaml'), text.replace('    - {up: 20, speed: 3}\n', ''));
  t.is(await run('simulate', '--scenario', 'w.yaml', '--gateways', '9'), 2);
  t.regex(err.text, /has both of seconds_per_sequence and flops/);
  t.regex(err.text, /gateways\.count is 9; there are no more than trainers, 4/);
  t.is(await run('simulate', '--trainers', '2'), 2);
  t.regex(err.text, /has neither of seconds_per_sequence and flops/);
  t.is(await run('simulate', '--scenario', 'none.yaml'), 2);
  t.regex(err.text, /cannot read none\.yaml: no such file/);
});

test('galore simulate predicts what galore bench wan measured, from its fast steps', async (t) => {
  const { dir, out, err, run } = world(t);
  const fast = {
    download: 0.005,
    apply: 0.34,
    assign: 0,
    compute: 1.08,
    upload: 0.01,
    seal: 0.005,
    journal: 0.01,
  };
  const measured = {
    ...{ model: '60m', preset: 'wan', vocab: 32_000, batch: 2, seq: 256, trainers: 2 },
    ...{ upBitsPerSecond: 1e8, downBitsPerSecond: 1e8, bytesUpPerStep: 3.7e6, bytesDownPerStep: 3.7e6 },
    // docs/benchmarks.md, "Slow links"
    ...{ secondsPerStep: 1.526, unshapedSecondsPerStep: 1.459, timeLine: fast, unshapedTimeLine: fast },
  };
  writeFileSync(join(dir, 'wan.json'), `noise\n${JSON.stringify(measured)}\n`);
  t.is(await run('simulate', '--compare', 'wan.json', '--json'), 0, err.text);
  const { comparison } = JSON.parse(out.text) as { comparison: { ratio: number } };
  t.true(comparison.ratio > 0.85 && comparison.ratio < 1.15, String(comparison.ratio));
  writeFileSync(join(dir, 'wan.json'), '{}');
  t.is(await run('simulate', '--compare', 'wan.json'), 2);
  t.regex(err.text, /wan\.json is not what galore bench wan --json prints: model/);
});
