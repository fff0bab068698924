/** `galore predict`: which texts and model it takes, and what it prints. */
import test, { type ExecutionContext } from 'ava';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { PredictionRequest } from '../../src/trainer/predict-classes.ts';
import { withRun } from './runs.ts';

/** A program whose model finds one text in two to be spam; `requests` fills up. */
async function withPredictions(t: ExecutionContext) {
  const requests: PredictionRequest[] = [];
  const predictClasses = (request: PredictionRequest): Promise<void> => {
    requests.push(request);
    request.texts.forEach((text, i) =>
      request.onPrediction({
        text,
        label: i % 2 === 0 ? 'spam' : 'ham',
        probabilities: i % 2 === 0 ? { ham: 0.25, spam: 0.75 } : { ham: 0.5, spam: 0.5 },
      }),
    );
    return Promise.resolve();
  };
  return { requests, w: await withRun(t, { services: { predictClasses } }) };
}

test('predict prints the label, the share of each class and the text', async (t) => {
  const { requests, w } = await withPredictions(t);
  t.is(await w.run('predict', 'kept', 'You have\nwon', 'x'.repeat(80)), 0);
  t.is(
    w.out.text,
    'spam  ham 0.2500  spam 0.7500  You have won\n' + `ham  ham 0.5000  spam 0.5000  ${'x'.repeat(60)}…\n`,
  );
  t.like(requests[0], { sequenceLength: 128, batchSequences: 8, threads: 8 });
  t.is(requests[0]?.folder.step, 10);
});

test('predict reads a file line by line, and prints an object for each text with --json', async (t) => {
  const { requests, w } = await withPredictions(t);
  writeFileSync(join(w.dir, 'mails.txt'), 'first\r\n\n  \nsecond\n');
  t.is(await w.run('predict', 'kept', 'given', '--file', 'mails.txt', '--json', '--seq-len', '16'), 0);
  t.deepEqual(requests[0]?.texts, ['given', 'first', 'second']);
  t.is(requests[0]?.sequenceLength, 16);
  const lines = w.out.text.trimEnd().split('\n');
  t.is(lines.length, 3);
  t.deepEqual(JSON.parse(lines[0]!), {
    text: 'given',
    label: 'spam',
    probabilities: { ham: 0.25, spam: 0.75 },
  });
});

test('predict without a text, with an empty file or with a file that is not there says so', async (t) => {
  const { requests, w } = await withPredictions(t);
  t.is(await w.run('predict', 'kept'), 2);
  t.regex(w.err.text, /there is no text to classify: name one, or a file with --file/);
  writeFileSync(join(w.dir, 'empty.txt'), '\n');
  t.is(await w.run('predict', 'kept', '--file', 'empty.txt'), 2);
  t.regex(w.err.text, /empty.txt holds none/);
  t.is(await w.run('predict', 'kept', '--file', 'none.txt'), 2);
  t.regex(w.err.text, /none.txt does not exist/);
  t.is(await w.run('predict', 'nowhere', 'x'), 2);
  t.regex(w.err.text, /there is no folder nowhere/);
  t.is(requests.length, 0);
});
