import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { rate } from '../../src/cli/plan.ts';
import { world } from './fakes.ts';

test('a rate is a number and its unit', (t) => {
  t.is(rate('100mbit'), 100e6);
  t.is(rate('1.5Gbit'), 1.5e9);
  t.is(rate('64kbit'), 64e3);
  for (const wrong of ['100', 'mbit', '0mbit', '-1mbit', '10MB', '1e3mbit']) {
    t.throws(() => rate(wrong), { message: /such as 100mbit/ }, wrong);
  }
});

test('galore plan prints bytes, seconds and memory, for people and as one line of JSON', async (t) => {
  const { dir, out, err, run } = world(t);
  const text = 'name: p\nmodel: 60m\ndata: {path: none}\ntokenizer: {vocab_size: 32000}\nsteps: 2400\n';
  writeFileSync(join(dir, 'p.yaml'), text);
  t.is(
    await run('plan', 'p.yaml', '--set', 'preset=wan', '--trainers', '2', '--bandwidth', '50mbit'),
    0,
    err.text,
  );
  t.regex(out.text, /preset wan\n/);
  t.regex(out.text, /^power +58 +58\.1M +39 to 64 +3\.7 MB +3\.7 MB$/m);
  t.regex(out.text, /a step at 50 Mbit\/s up, 50 Mbit\/s down; dense f32 74\.3 s/);

  const before = out.text.length;
  t.is(
    await run('plan', 'p.yaml', '--set', 'preset=exact', '--up', '20mbit', '--down', '100mbit', '--json'),
    0,
  );
  const plan = JSON.parse(out.text.slice(before)) as {
    parameters: number;
    secondsPerStep: { dense: number };
  };
  t.is(plan.secondsPerStep.dense, (32 * plan.parameters) / 20e6 + (32 * plan.parameters) / 100e6);
});

test('galore plan says that row-sparse is the most it can be', async (t) => {
  const { dir, out, err, run } = world(t);
  writeFileSync(join(dir, 'p.yaml'), 'name: p\nmodel: 60m\ndata: {path: none}\nsteps: 10\n');
  const group = 'method.param_groups=[{match: [embed_tokens], policy: POLICY}]';
  t.is(await run('plan', 'p.yaml', '--set', group.replace('POLICY', 'dense')), 0, err.text);
  t.notRegex(out.text, /the most it can be/);
  t.is(await run('plan', 'p.yaml', '--set', group.replace('POLICY', 'row-sparse')), 0, err.text);
  t.regex(out.text, /^row-sparse +1 .*\n(.*\n)+row-sparse is the most it can be, with no token twice/m);
});

test('galore plan refuses what a run would refuse', async (t) => {
  const { dir, err, run } = world(t);
  writeFileSync(join(dir, 'p.yaml'), 'name: p\nmodel: 60m\ndata: {path: none}\nsteps: 10\n');
  t.is(await run('plan', 'p.yaml', '--set', 'method.target_modules=[ffn]'), 2);
  t.regex(err.text, /method\.target_modules is ffn; no matrix/);
  t.is(await run('plan', 'p.yaml', '--bandwidth', 'fast'), 2);
  t.regex(err.text, /such as 100mbit/);
});

test('galore plan says whose bytes they are where not all trainers take part in a step', async (t) => {
  const { dir, out, err, run } = world(t);
  writeFileSync(join(dir, 'p.yaml'), 'name: p\nmodel: 9m\ndata: {path: none}\nsteps: 10\n');
  t.is(await run('plan', 'p.yaml', '--trainers', '3'), 0, err.text);
  t.regex(out.text, /10 steps, 3 trainers; below: one trainer in the mean step/);
  t.is(
    await run('plan', 'p.yaml', '--trainers', '3', '--set', 'local_steps.participation=0.55'),
    0,
    err.text,
  );
  t.regex(out.text, /3 trainers, 55 % of them in a step; below: one that takes part, in the mean step/);
});
