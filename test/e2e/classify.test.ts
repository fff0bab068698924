/** A classifier from an encoder's folder: trained, measured, asked, exported, asked again. */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { wordTokenizer } from '../files/word-tokenizer.ts';
import { galore, ROOT, temporaryFolder } from '../helpers/galore.ts';

const SPAM = ['win', 'money', 'free', 'cheap', 'now'];
const HAM = ['meet', 'noon', 'report', 'here', 'now'];

/** Texts of four words; those of a class are told by their words. */
function mails(count: number): string {
  return Array.from({ length: count }, (_, i) => {
    const words = i % 2 === 0 ? HAM : SPAM;
    const text = [0, 1, 2, 3].map((k) => words[(i * 3 + k * (1 + (i % 3)) + (i >> 2)) % words.length]);
    return JSON.stringify({
      text: `${text.join(' ')}${' now'.repeat((i >> 1) % 4)}`,
      label: i % 2 === 0 ? 'ham' : 'spam',
    });
  }).join('\n');
}

test.serial('a classifier is trained from an encoder, measured, asked and exported', async (t) => {
  const folder = temporaryFolder(t);
  const model = join(folder, 'model');
  mkdirSync(model);
  for (const name of ['config.json', 'model.safetensors']) {
    cpSync(join(ROOT, 'test', 'vectors', 'bert-tiny', 'labels3', name), join(model, name));
  }
  writeFileSync(join(model, 'tokenizer.json'), wordTokenizer([...new Set([...SPAM, ...HAM])]).json!);
  const data = join(folder, 'mails.jsonl');
  writeFileSync(data, mails(160));
  const config = {
    name: 'spam',
    model: { path: model },
    task: { type: 'sequence-classification', labels: ['ham', 'spam'], pooling: 'mean' },
    data: { path: data, validation_fraction: 0.2 },
    tokenizer: { type: 'file', path: model },
    seq_len: 12,
    batch_size: 16,
    steps: 25,
    optimizer: { lr: 0.02 },
    method: { name: 'galore', rank: 4, param_groups: [{ match: ['word_embeddings'], policy: 'frozen' }] },
    evaluation: { every: 0 },
    coordinator: { port: 0 },
  };
  writeFileSync(join(folder, 'run.yaml'), JSON.stringify(config));
  const run = join(folder, 'run');
  const trained = await galore(t, 'train', join(folder, 'run.yaml'), '--dir', run, '--trainers', '1');
  t.is(trained.code, 0, trained.output);
  t.regex(trained.output, /new weights, made from the seed: classifier.weight, classifier.bias/);
  t.regex(trained.output, /to try it: .* predict /);

  const measured = await galore(t, 'eval', run, '--json');
  t.is(measured.code, 0, measured.output);
  const { accuracy, texts } = JSON.parse(measured.output) as { accuracy: number; texts: number };
  t.true(accuracy > 0.9 && texts > 0, measured.output);

  const out = join(folder, 'out');
  t.is((await galore(t, 'export', run, out)).code, 0);
  t.true(existsSync(join(out, 'modeling_mean_pooling.py')));
  const written = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')) as Record<string, unknown>;
  t.like(written, { classifier_pooling: 'mean', id2label: { '0': 'ham', '1': 'spam' } });
  const ask = (from: string) =>
    galore(t, 'predict', from, 'win money free cheap', 'meet noon report here', '--json');
  const [ours, exported] = [await ask(run), await ask(out)];
  t.is(ours.code, 0, ours.output);
  t.is(exported.output, ours.output);
  const labels = ours.output
    .trimEnd()
    .split('\n')
    .map((line) => (JSON.parse(line) as { label: string }).label);
  t.deepEqual(labels, ['spam', 'ham']);

  const generated = await galore(t, 'generate', out, '--prompt', 'win');
  t.is(generated.code, 2);
  t.regex(generated.output, /holds a classifier \(bert\): .* galore predict/);
});
