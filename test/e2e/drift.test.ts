/** A weight that changes by itself in one trainer of a real run: found, named, mended. */
import test, { type ExecutionContext } from 'ava';
import type { ReplayResult } from '../../src/cli/replay-run.ts';
import { Galore, relativeDifference, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';

const FAULT_STEP = 6;
/** The first comparison behind it: checkpoints are made every 8 steps, and hashes told every 5, too. */
const FOUND_STEP = 8;

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5 };

function configOf(trainers: number, steps: number): Record<string, unknown> {
  const more = { model, method, batch_size: 18, checkpoint: { every: 8, keep: 99 }, steps };
  return tinyConfig(TEST_TEXT, { ...more, coordinator: { port: 0, start_trainers: trainers } });
}

/** A run in which a bit flips in a weight of the first trainer, which is the one that uploads checkpoints. */
async function disturbed(t: ExecutionContext, ids: readonly string[], steps: number) {
  const run = new TestRun(t, configOf(ids.length, steps));
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  const fault = {
    program: 'dist/test/support/faulty-trainer.js',
    environment: { FAULT_STEP: String(FAULT_STEP) },
  };
  const trainers = ids.map(
    (id, i) => new Galore(t, ['trainer', url, '--id', id, '--threads', '1'], i === 0 ? fault : {}),
  );
  t.is(await command.exited, 0, command.output);
  for (const each of trainers) t.is(await each.exited, 0, each.output);
  return { run, log: command.output, trainers };
}

/** All that holds a state has the same, and it is the one that the journal leads to. */
async function allHaveWhatTheJournalSays(t: ExecutionContext, run: TestRun, trainers: readonly Galore[]) {
  const { step: steps, weightsSha256 } = await run.inspect();
  for (const { output } of trainers)
    t.regex(output, new RegExp(`after step ${steps} have SHA-256 ${weightsSha256}`));
  const { code, output } = await galoreHere('replay', run.dir, '--json');
  t.is(code, 0, output);
  const replay = JSON.parse(output) as ReplayResult;
  t.like(replay, { from: 0, to: steps, equal: true, weightsSha256 });
  const compared = (what: string): number[] =>
    replay.rows.flatMap(({ step, comparedWith }) => (comparedWith === what ? [step] : []));
  t.deepEqual(compared('checkpoint'), [
    0,
    ...run.metrics.flatMap(({ step }) => (step % 8 === 0 ? [step] : [])),
  ]);
}

test.serial(
  'a flipped bit in one of three trainers is found at the next comparison, named and mended',
  async (t) => {
    const steps = 56; // long enough for one that was sent away to come back
    const { run, log, trainers } = await disturbed(t, ['a', 'b', 'c'], steps);
    const told = [
      ...log.matchAll(/(\w+): the weights after step (\d+) differ: \w{8} here, \w{8} on 2 trainers/g),
    ];
    t.deepEqual(
      told.map(([, id, step]) => [id, Number(step)]),
      [['a', FOUND_STEP]],
      log,
    );
    t.deepEqual(
      trainers.map(({ output }) => output.match(/receiving a snapshot/g)?.length),
      [2, 1, 1],
    );
    await allHaveWhatTheJournalSays(t, run, trainers);
    // Once it is back all three agree, at every comparison.
    const back = run.metrics.findLast(({ members }) => !members.delivered.includes('a'))!.step;
    const hashes = run.metrics.flatMap(({ stateHash }) => (stateHash === undefined ? [] : [stateHash]));
    t.log(
      `a is back after step ${back}; compared: ${hashes.map(({ step, trainers: n }) => `${step}:${n}`).join(' ')}`,
    );
    t.true(back > FAULT_STEP && back < steps - 10);
    t.like(
      hashes.find(({ step }) => step === FOUND_STEP),
      { trainers: 2 },
    );
    const later = hashes.filter(({ step }) => step > back);
    t.true(later.length >= 1 && later.every(({ trainers: count }) => count === 3));

    // Up to the fault it is the undisturbed run. What a contributed before it was found was of a model with one wrong
    // weight: that is in the journal, and remains.
    const whole = await new TestRun(t, configOf(3, steps)).trainHere(3, '--stop-at', String(FOUND_STEP));
    const losses = (of: TestRun): number[] => of.metrics.slice(0, FAULT_STEP).map(({ loss }) => loss);
    t.deepEqual(losses(run), losses(whole));
    const difference = relativeDifference(run.weights(FOUND_STEP), whole.weights(FOUND_STEP));
    t.log(`weights after step ${FOUND_STEP} within ${difference.toExponential(2)} of the undisturbed run`);
    t.true(difference > 0 && difference < 1e-4, String(difference));
  },
);

test.serial(
  'of two trainers that differ none is believed: both begin anew from the checkpoint and the journal',
  async (t) => {
    const { run, log, trainers } = await disturbed(t, ['a', 'b'], 24);
    for (const id of ['a', 'b']) {
      t.regex(log, new RegExp(`${id}: the weights after step ${FOUND_STEP} differ, and no majority tells`));
    }
    t.deepEqual(
      trainers.map(({ output }) => output.match(/receiving a snapshot/g)?.length),
      [2, 2],
    );
    await allHaveWhatTheJournalSays(t, run, trainers);
  },
);
