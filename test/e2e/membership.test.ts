/** Trainers that come and go, or are not heard of, in a real run. */
import test, { type ExecutionContext } from 'ava';
import type { RunCoverage } from '../../src/coordinator/store/inspect-coverage.ts';
import { Galore, galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

async function coordinator(t: ExecutionContext, run: TestRun): Promise<{ command: Galore; url: string }> {
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  return { command, url };
}

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5, refresh: { stagger: false } };

test.serial('a trainer killed mid-run is missed by no one: the run goes on and ends', async (t) => {
  const run = new TestRun(
    t,
    tinyConfig(TEST_TEXT, { model, method, steps: 24, coordinator: { port: 0, start_trainers: 2 } }),
  );
  const { command, url } = await coordinator(t, run);
  const first = new Galore(t, ['trainer', url, '--id', 'a']);
  const second = new Galore(t, ['trainer', url, '--id', 'b']);
  await command.printed(/step 8\/24/);
  second.child.kill('SIGKILL');
  t.is(await command.exited, 0, command.output);
  t.is(await first.exited, 0, first.output);
  const { metrics } = run;
  t.deepEqual(
    metrics.map(({ step }) => step),
    Array.from({ length: 24 }, (_, i) => i + 1),
  );
  t.is(metrics[5]!.trainers, 2);
  t.is(metrics.at(-1)!.trainers, 1);
  t.true(metrics.every(({ tokens }) => tokens > 0));
});

test.serial('a trainer that joins mid-run takes part, and all weights are equal at the end', async (t) => {
  const run = new TestRun(t, tinyConfig(TEST_TEXT, { method, steps: 60, coordinator: { port: 0 } }));
  const { command, url } = await coordinator(t, run);
  const first = new Galore(t, ['trainer', url, '--id', 'a']);
  await command.printed(/step 5\/60/);
  const second = new Galore(t, ['trainer', url, '--id', 'b']);
  t.is(await command.exited, 0, command.output);
  t.is(await first.exited, 0, first.output);
  t.is(await second.exited, 0, second.output);
  const joined = run.metrics.findIndex(({ trainers }) => trainers === 2);
  t.true(joined > 0, 'the second trainer never took part');
  t.true(run.metrics.slice(joined).every(({ trainers }) => trainers === 2));
  const { weightsSha256 } = await run.inspect();
  t.regex(first.output, new RegExp(`after step 60 have SHA-256 ${weightsSha256}`));
  t.regex(second.output, new RegExp(`after step 60 have SHA-256 ${weightsSha256}`));
});

test.serial(
  'a trainer that freezes is left behind after quorum and grace, and its sequences are used later',
  async (t) => {
    // Without the quorum the step would wait for heartbeat_timeout_ms, 30 s, or for step_deadline_ms, 10 minutes.
    const graceMs = 400;
    const policy = { port: 0, start_trainers: 3, quorum: '60%', grace_ms: graceMs };
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, method, steps: 90, coordinator: policy }));
    const { command, url } = await coordinator(t, run);
    const trainers = ['a', 'b', 'c'].map(
      (id) => new Galore(t, ['trainer', url, '--id', id, '--threads', '1']),
    );
    const [, b] = trainers;
    await command.printed(/step 12\/90/);
    b!.child.kill('SIGSTOP');
    const stoppedMs = Date.now();
    await command.printed(/step 24\/90/);
    const frozenSeconds = (Date.now() - stoppedMs) / 1000;
    b!.child.kill('SIGCONT');
    t.is(await command.exited, 0, command.output);
    for (const each of trainers) t.is(await each.exited, 0, each.output);

    const { metrics } = run;
    const late = metrics.filter(({ members }) => members.late !== undefined);
    t.true(late.length >= 1, JSON.stringify(metrics.map(({ members }) => members)));
    const [first] = late;
    t.deepEqual(first!.members, { assigned: ['a', 'b', 'c'], delivered: ['a', 'c'], late: ['b'] });
    t.log(`step ${first!.step} waited ${first!.waitSeconds} s; 12 steps took ${frozenSeconds} s`);
    t.true(first!.waitSeconds >= graceMs / 1000 && first!.waitSeconds < 5, String(first!.waitSeconds));
    t.deepEqual(metrics[first!.step]!.members, { assigned: ['a', 'c'], delivered: ['a', 'c'] });
    t.is(metrics.at(-1)!.trainers, 3);
    t.true(metrics.every(({ tokens }) => tokens > 0));
    t.regex(b!.output, /it is late, the run has committed \d+ steps/);
    // It had kept its connection and its state: what it missed were records.
    t.is(b!.output.match(/receiving a snapshot/g)?.length, 1, b!.output);

    // What b could not deliver others used, or b itself, later: nothing is missing and nothing was used twice.
    const inspected = await galore(t, 'inspect', run.dir, '--coverage', '--json');
    t.is(inspected.code, 0, inspected.output);
    const coverage = JSON.parse(inspected.output) as RunCoverage;
    t.like(coverage, { duplicates: 0, missing: 0, isExact: true, faults: [] });
    const { weightsSha256 } = await run.inspect();
    for (const { output } of trainers) t.regex(output, new RegExp(`SHA-256 ${weightsSha256}`));
  },
);
