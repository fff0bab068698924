import test from 'ava';
import { createJsonReporter, createReporter, Display } from '../../src/cli/display.ts';
import {
  permanentLine,
  printsStep,
  progressLine,
  statusLine,
  stepLine,
  stepStride,
  summaryLines,
} from '../../src/cli/progress.ts';
import { SILENT_LOGGER, type LogFields } from '../../src/log.ts';
import { FakeStream, STEP, summary } from './fakes.ts';

const asIs = (path: string): string => path;

test('the status line tells step, losses, speed, bytes, trainers and time left', (t) => {
  t.is(
    statusLine(STEP),
    'step 12/60 · loss 5.12 · val ppl 210 · 812 tok/s · 1.2 MB up 1.2 MB down per step · 2 trainers · 1m20s left',
  );
});

test('the status line leaves out what is not known yet and, at the end, the time left', (t) => {
  t.is(
    statusLine({ ...STEP, step: 60, validation: null, trainers: 1, assigned: 1 }),
    'step 60/60 · loss 5.12 · 812 tok/s · 1.2 MB up 1.2 MB down per step · 1 trainer',
  );
});

test('trainers that were given work and did not deliver are missing from all that were', (t) => {
  const report = { ...STEP, trainers: 2, assigned: 3 };
  t.regex(statusLine(report), / · 2 of 3 trainers · /);
  t.regex(stepLine(report), / {2}trainers 2\/3 {2}/);
});

test('the plain line is ASCII with a name before each value', (t) => {
  t.is(
    stepLine(STEP),
    'step 12/60  loss 5.1234  val_ppl 210  lr 0.01  tok/s 812  up 1.2 MB  down 1.2 MB  trainers 2  left 1m20s',
  );
  t.regex(stepLine({ ...STEP, loss: NaN, learningRate: 0.001 / 3 }), /loss NaN .* lr 0\.0003333 /);
});

test('a short run prints every step, a long fast one about one a second, at round numbers', (t) => {
  t.is(stepStride(100, 0.001), 1);
  t.is(stepStride(1000, 2), 1);
  t.is(stepStride(1000, 0.3), 5);
  t.is(stepStride(1_000_000, 0.004), 500);
  t.is(stepStride(1_000_000, 0), 1);
  const fast = { ...STEP, totalSteps: 1003, seconds: 0.3 };
  const printed = [1, 2, 5, 7, 10, 1002, 1003].filter((step) => printsStep({ ...fast, step }));
  t.deepEqual(printed, [1, 5, 10, 1003]);
});

test('evaluations, checkpoints and notices stay; steps and progress do not', (t) => {
  t.is(
    permanentLine({ type: 'evaluation', step: 20, loss: 5.01, accuracy: null }, asIs),
    'evaluation at step 20: loss 5.0100, perplexity 150',
  );
  t.is(
    permanentLine({ type: 'checkpoint', step: 20, path: '/w/runs/x' }, (path) => path.slice(3)),
    'checkpoint of step 20: runs/x',
  );
  t.is(permanentLine(STEP, asIs), null);
  t.is(permanentLine({ type: 'progress', text: 'x', share: 0 }, asIs), null);
});

test('text from other machines cannot move the cursor', (t) => {
  t.is(permanentLine({ type: 'notice', text: 'a\u001b[2J\nb' }, asIs), 'a [2J b');
});

test('progress is a percentage that stays between 0 and 100', (t) => {
  t.is(progressLine({ type: 'progress', text: 'tokenising', share: 0.405 }), 'tokenising  41%');
  t.is(progressLine({ type: 'progress', text: 'tokenising', share: 7 }), 'tokenising  100%');
});

const WORDS = { path: (path: string) => path, resume: 'galore resume x', generate: 'galore generate x' };

test('a completed run ends with its results and a command to try it', (t) => {
  t.deepEqual(summaryLines(summary('/r'), WORDS), [
    'done: 60 steps, loss 4.5000, validation perplexity 95.2',
    'checkpoint: /r/checkpoints/step-000060',
    'weights sha256: ab12',
    'to try it: galore generate x',
  ]);
});

test('a run that was complete when it was resumed has no loss to tell', (t) => {
  const lines = summaryLines(summary('/r', { lastLoss: NaN, validation: null }), WORDS);
  t.is(lines[0], 'done: 60 steps');
});

test('a stopped run ends with the command that goes on', (t) => {
  const lines = summaryLines(
    summary('/r', { outcome: 'stopped', step: 12, checkpointPath: null, weightsSha256: null }),
    WORDS,
  );
  t.deepEqual(lines, ['stopped after step 12 of 60', 'to go on: galore resume x']);
});

test('on a terminal the status line is redrawn under the lines that stay', (t) => {
  const out = new FakeStream(true, 40);
  const err = new FakeStream(true, 40);
  const display = new Display(out, err, true);
  const report = createReporter(display, asIs);
  report(STEP);
  report({ type: 'notice', text: 'trainer-2 joined' });
  display.error('12:00:00Z warn  something\n');
  display.close();
  const status = 'step 12/60 · loss 5.12 · val ppl 210 ·…';
  t.is(status.length, 39); // one column stays free, or some terminals wrap
  t.is(
    out.text,
    `\r\u001b[2K${status}` + `\r\u001b[2Ktrainer-2 joined\n${status}` + `\r\u001b[2K${status}` + '\n',
  );
  t.is(err.text, '12:00:00Z warn  something\n');
});

test('elsewhere there are plain lines only, and each stage of progress is named once', (t) => {
  const out = new FakeStream(false);
  const report = createReporter(new Display(out, new FakeStream(), true), asIs);
  report({ type: 'progress', text: 'tokenising', share: 0.1 });
  report({ type: 'progress', text: 'tokenising', share: 0.9 });
  report({ ...STEP, step: 1 });
  t.is(out.text, `tokenising\n${stepLine({ ...STEP, step: 1 })}\n`);
});

test('a terminal that cannot redraw gets plain lines', (t) => {
  const out = new FakeStream(true);
  const report = createReporter(new Display(out, new FakeStream(), false), asIs);
  report({ ...STEP, step: 1 });
  t.false(out.text.includes('\u001b'));
});

test('as JSON, something long is told of when it begins and at each quarter', (t) => {
  const shares: unknown[] = [];
  const logger = {
    ...SILENT_LOGGER,
    info: (_: string, fields: LogFields) => void shares.push(fields['share']),
  };
  const report = createJsonReporter(logger);
  for (let i = 0; i <= 100; i++) report({ type: 'progress', text: 'tokenising', share: i / 100 });
  report({ type: 'progress', text: 'hashing', share: 0.01 });
  t.deepEqual(shares, [0, 0.25, 0.5, 0.75, 1, 0.01]);
});
