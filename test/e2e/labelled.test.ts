/** Labelled examples that the coordinator has: a classifier trained from a folder, as a user would. */
import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { wordTokenizer } from '../files/word-tokenizer.ts';
import { galore, ROOT, temporaryFolder, TestRun, tinyConfig } from '../helpers/galore.ts';

const WORDS = Array.from({ length: 60 }, (_, i) => `word${i}`);

/** A small BERT with a tokenizer, and mails of which those with the last word are spam. */
function prepare(t: ExecutionContext): { readonly model: string; readonly data: string } {
  const folder = temporaryFolder(t);
  const model = join(folder, 'model');
  cpSync(join(ROOT, 'test/vectors/bert-tiny/labels2'), model, { recursive: true });
  writeFileSync(join(model, 'tokenizer.json'), wordTokenizer(WORDS).json!);
  const lines = Array.from({ length: 240 }, (_, i) => {
    const isSpam = i % 3 === 0;
    const words = Array.from({ length: 3 + (i % 5) }, (__, j) => WORDS[(i * 7 + j * 11) % 59]!);
    if (isSpam) words.splice(i % 3, 0, 'word59');
    return JSON.stringify({ text: words.join(' '), label: isSpam ? 'spam' : 'ham' });
  });
  const data = join(folder, 'mails.jsonl');
  writeFileSync(data, lines.join('\n'));
  return { model, data };
}

function configOf(
  { model, data }: { readonly model: string; readonly data: string },
  more: object,
): Record<string, unknown> {
  return {
    ...tinyConfig(data, {
      model: { path: model },
      task: { type: 'sequence-classification', labels: ['ham', 'spam'] },
      tokenizer: { type: 'file', path: model },
      data: { path: data, validation_fraction: 0.2 },
      seq_len: 16,
      batch_size: 16,
      optimizer: { lr: 0.01 },
      evaluation: { every: 30 },
      steps: 30,
    }),
    ...more,
  };
}

test.serial('two trainers learn to classify what the coordinator hands out', async (t) => {
  const run = await new TestRun(t, configOf(prepare(t), {})).trainHere(2);
  const { metrics } = run;
  t.is(metrics.length, 30);
  t.true(
    metrics.every(({ tokens }) => tokens === 16),
    'the loss is one for each example',
  );
  const last = run.evaluations.at(-1) as unknown as { readonly loss: number; readonly accuracy: number };
  t.true(last.accuracy > 0.9, JSON.stringify(last));
});

test.serial('a label that the run does not have stops it before anything is written', async (t) => {
  const prepared = prepare(t);
  const labels = { task: { type: 'sequence-classification', labels: ['ham', 'eggs'] } };
  const run = new TestRun(t, configOf(prepared, labels));
  const { code, output } = await galore(t, 'train', run.configPath, '--dir', run.dir, '--trainers', '1');
  t.is(code, 2, output);
  t.true(
    output.includes(
      'mails.jsonl, line 1: the label "spam" is none of the run\'s labels: "ham" (0), "eggs" (1)',
    ),
    output,
  );
});
