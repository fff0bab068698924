import test from 'ava';
import {
  measure,
  readLogLine,
  type CommittedRecord,
  type StepMetrics,
  type TrainerStep,
  type WanRecords,
} from '../../../src/cli/wan/measurement.ts';
import { turnsOf } from '../../../src/cli/wan/turns.ts';

/** Steps 8 and 9 are counted over slow links, 4 and 5 over fast ones. */
const TURNS = turnsOf(2);
const STEPS = Array.from({ length: 10 }, (_, i) => i + 1);
const isSlow = (step: number): boolean => step >= 6;
/** Odd steps take 1 s over fast links and 3 s over slow ones, even ones 0.2 s more. */
const secondsOf = (step: number): number => (isSlow(step) ? 3 : 1) + (step % 2 === 0 ? 0.2 : 0);
const committedMs = (step: number): number =>
  STEPS.filter((each) => each <= step).reduce((sum, each) => sum + 1000 * secondsOf(each), 0);

/** `b` is the slower of two: it begins 150 ms after the commit before and contributes 50 ms before its own. */
function trainerSteps(step: number): TrainerStep[] {
  const [before, now] = [committedMs(step - 1), committedMs(step)];
  const wait = isSlow(step) ? 1100 : 100;
  const b = { assignedMs: before + wait + 50, contributedMs: now - 50 };
  const after = isSlow(step + 1) ? 1100 : 100;
  const end = { receivedMs: now + after - 80, appliedMs: now + after };
  return [
    { trainer: 'a', step, ...b, contributedMs: now - 300, ...end, busySeconds: 0.5 },
    { trainer: 'b', step, ...b, ...end, busySeconds: 0.8 },
  ];
}

function metricsOf(step: number): StepMetrics {
  const size = step % 2 === 0 ? 3000 : 1000;
  const refresh = step === 1 ? 80_000 : 40;
  const directions = {
    up: { contribution: size, refresh, other: 10 },
    down: { update: 2 * size, refresh: refresh / 2, data: 20, snapshot: step === 1 ? 1e6 : 0 },
  };
  const traffic = { trainers: { a: directions, b: directions }, policies: {} };
  return { step, tokens: 1024, seconds: secondsOf(step), traffic };
}

const update = (step: number): CommittedRecord => ({
  ...{ step, committedMs: committedMs(step), sealSeconds: 0.01, writeSeconds: 0.02 },
});

const RECORDS: WanRecords = {
  metrics: STEPS.map(metricsOf),
  trainerSteps: STEPS.flatMap(trainerSteps),
  updates: STEPS.map(update),
};

test('a step is the mean of the medians of odd and even steps of its kind of links', (t) => {
  const { shaped, unshaped } = measure(RECORDS, TURNS, 200);
  t.is(shaped.secondsPerStep, 3.1); // 3.2 and 3
  t.is(unshaped.secondsPerStep, 1.1);
  t.is(shaped.tokensPerSecond, 1024 / 3.1);
  t.deepEqual(shaped.stepSeconds, [3.2, 3]);
  t.is(unshaped.computeSecondsPerStep, 0.8); // b's
});

test('bytes are the mean of an even number of steps after the warm-up, and the first refresh by the gap', (t) => {
  const { up, down } = measure(RECORDS, TURNS, 200);
  t.deepEqual(up, { total: 2000 + 10 + 80_000 / 200, refresh: 400 });
  t.deepEqual(down, { total: 4000 + 20 + 40_000 / 200, refresh: 200 });
});

test('the time line follows the trainer that contributes last and adds up to the step', (t) => {
  const { shaped, unshaped } = measure(RECORDS, TURNS, 200);
  const rounded = (parts: object): object =>
    Object.fromEntries(Object.entries(parts).map(([name, seconds]) => [name, Number(seconds.toFixed(6))]));
  const both = { apply: 0.08, assign: 0.05, upload: 0.02, seal: 0.01, journal: 0.02 };
  t.deepEqual(rounded(shaped.timeLine), { ...both, download: 1.02, compute: 1.9 });
  t.deepEqual(rounded(unshaped.timeLine), { ...both, download: 0.02, compute: 0.9 });
  const sum = Object.values(shaped.timeLine).reduce((total, seconds) => total + seconds, 0);
  t.true(Math.abs(sum - shaped.secondsPerStep) < 1e-9);
});

test('a step that nobody has written down is an error, not a number', (t) => {
  const without = (step: number): WanRecords => ({
    ...RECORDS,
    trainerSteps: RECORDS.trainerSteps.filter((line) => line.step !== step),
  });
  t.throws(() => measure(without(9), TURNS, 200), { message: 'no trainer has told of step 9 (shaped)' });
  t.throws(() => measure(without(7), TURNS, 200), { message: 'b has not told of step 7' });
  t.throws(() => measure({ ...RECORDS, metrics: [] }, TURNS, 200), {
    message: 'metrics.jsonl has no line of step 8',
  });
});

test('lines of the logs are read, and others passed over', (t) => {
  const [line] = trainerSteps(4);
  t.is(readLogLine('not JSON'), null);
  t.is(readLogLine('{"event":"run.note"}'), null);
  t.is(readLogLine('{"event":"record.committed","kind":"basis","step":1}'), null);
  t.like(readLogLine(JSON.stringify({ event: 'run.step', step: 3, loss: 2 })), { type: 'step', step: 3 });
  t.like(readLogLine(JSON.stringify({ event: 'trainer.step', ...line })), { type: 'trainerStep', line });
  const record = { event: 'record.committed', kind: 'update', step: 3, seconds: { seal: 0.1, write: 0.2 } };
  t.deepEqual(readLogLine(JSON.stringify({ ...record, time: '1970-01-01T00:00:01.500Z' })), {
    type: 'update',
    line: { step: 3, committedMs: 1500, sealSeconds: 0.1, writeSeconds: 0.2 },
  });
});
