import test from 'ava';
import { MAX_POINTS, RECENT_STEPS, RunHistory } from '../../src/view/run-history.ts';

function line(step: number, more: object = {}) {
  return { step, loss: step, tokens: 10, seconds: 0.5, bytesUp: 100, bytesDown: 200, trainers: 2, ...more };
}

test('a short run is told step by step, with the numbers of its lines', (t) => {
  const history = new RunHistory();
  history.addStep(line(1, { loss: 5.25, learningRate: 0.01, gradientNorm: 2, waitSeconds: 0.1 }));
  t.deepEqual(history.history.points, [
    { from: 1, to: 1, loss: 5.25, seconds: 0.5, tokens: 10, bytesUp: 100, bytesDown: 200 },
  ]);
  const { step, loss, learningRate, gradientNorm, waitSeconds } = history.newest!;
  t.deepEqual([step, loss, learningRate, gradientNorm, waitSeconds], [1, 5.25, 0.01, 2, 0.1]);
});

test('of very many steps there are means of equally many, and the last ones in full', (t) => {
  const history = new RunHistory();
  const steps = 10_000;
  for (let step = 1; step <= steps; step++) history.addStep(line(step));
  const { points, stride, recent } = history.history;
  t.is(stride, 8); // 10 000 / 2048 = 4.9, rounded up to a power of two
  t.true(points.length <= MAX_POINTS);
  t.deepEqual([points[0]!.from, points[0]!.to, points[0]!.loss], [1, 8, 4.5]);
  t.is(points.at(-1)!.to, steps);
  points.slice(1).forEach(({ from }, i) => t.is(from, points[i]!.to + 1));
  t.deepEqual(
    recent.map(({ step }) => step),
    Array.from({ length: RECENT_STEPS }, (_, i) => steps - RECENT_STEPS + 1 + i),
  );
});

test('who has been told everything is told what came since, and all of it after the points were thinned out', (t) => {
  const history = new RunHistory();
  for (let step = 1; step <= MAX_POINTS; step++) history.addStep(line(step));
  const { mark } = history;
  t.deepEqual(history.since(mark), []);
  const before = history.mark;
  history.addStep(line(MAX_POINTS + 1)); // halves
  t.is(history.since(before), null);
  const thin = history.mark;
  history.addStep(line(MAX_POINTS + 2)); // joins the point of two steps
  t.deepEqual(
    history.since(thin)?.map(({ from, to }) => [from, to]),
    [[MAX_POINTS + 1, MAX_POINTS + 2]],
  );
});

test('totals count tokens, bytes by kind, who was late and whose norm was too large', (t) => {
  const history = new RunHistory();
  const traffic = {
    trainers: {
      a: { up: { contribution: 70 }, down: { update: 5 } },
      b: { up: { contribution: 30 }, down: {} },
    },
  };
  history.addStep(line(1, { traffic, members: { assigned: ['a', 'b'], late: ['b'] } }));
  history.addStep(line(2, { traffic, outliers: [{ trainerId: 'a', action: 'clip' }] }));
  const { totals } = history;
  t.deepEqual([totals.steps, totals.tokens, totals.late], [2, 20, 1]);
  t.deepEqual(totals.traffic.get('contribution'), { up: 200, down: 0 });
  t.is(totals.outliers.get('clip'), 1);
  t.deepEqual(history.newest?.traffic, [
    { kind: 'contribution', up: 100, down: 0 },
    { kind: 'update', up: 0, down: 5 },
  ]);
});

test('a line restored from the journal tells no time, and one of an older version leaves zeros', (t) => {
  const history = new RunHistory();
  const heard: number[] = [];
  history.onStep = ({ step }) => heard.push(step);
  history.addStep({ step: 1, loss: null, restored: true });
  t.is(history.secondsPerStep, null);
  history.addStep(line(2));
  t.is(history.secondsPerStep, 0.5);
  t.deepEqual(heard, [2]);
  t.is(history.history.points[0]!.tokens, 0);
});

test('evaluations are kept to the newest', (t) => {
  const history = new RunHistory();
  for (let step = 1; step <= 3 * MAX_POINTS; step++) history.addEvaluation({ step, loss: 1 / step });
  t.true(history.evaluations.length <= MAX_POINTS + 1);
  t.is(history.newestEvaluation?.step, 3 * MAX_POINTS);
  t.is(history.evaluations.at(-1)?.step, 3 * MAX_POINTS);
});
