/** `galore eval` and `galore generate`: which model, which arguments, what is printed. */
import test from 'ava';
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findModelFolder } from '../../src/cli/model-folder.ts';
import { CheckpointError, DataError } from '../../src/errors.ts';
import type { ContinuationRequest } from '../../src/trainer/continue-text.ts';
import type { EvaluationRequest } from '../../src/trainer/evaluate-model.ts';
import { FakeStream, RUN_YAML, world, writeRunDirectory } from './fakes.ts';
import { withRun } from './runs.ts';

const noNotice = (): void => {};

test('a run directory means its newest checkpoint, with the configuration of the run', async (t) => {
  const w = await withRun(t);
  const folder = await findModelFolder(w.context, 'kept', noNotice);
  t.is(folder.path, join(w.dir, 'kept/checkpoints/step-000010'));
  t.is(folder.step, 10);
  t.is(folder.config?.name, 'tiny');
});

test('a damaged checkpoint is passed over with a notice', async (t) => {
  const w = await withRun(t);
  appendFileSync(join(w.dir, 'kept/checkpoints/step-000010/model.safetensors'), 'x');
  const notices: string[] = [];
  const folder = await findModelFolder(w.context, 'kept', (text) => void notices.push(text));
  t.is(folder.step, 2);
  t.is(notices.length, 1);
});

test('a checkpoint may be named itself, and is verified', async (t) => {
  const w = await withRun(t);
  const folder = await findModelFolder(w.context, 'kept/checkpoints/step-000002', noNotice);
  t.is(folder.step, 2);
  t.is(folder.config?.name, 'tiny');
  appendFileSync(join(w.dir, 'kept/checkpoints/step-000002/model.safetensors'), 'x');
  await t.throwsAsync(findModelFolder(w.context, 'kept/checkpoints/step-000002', noNotice), {
    instanceOf: CheckpointError,
  });
});

test('a folder with config.json is a model that belongs to no run', async (t) => {
  const w = world(t);
  mkdirSync(join(w.dir, 'llama'));
  writeFileSync(join(w.dir, 'llama/config.json'), '{}');
  t.deepEqual(await findModelFolder(w.context, 'llama', noNotice), {
    path: join(w.dir, 'llama'),
    step: null,
    config: null,
  });
});

test('what is no model is told apart', async (t) => {
  const w = world(t);
  await t.throwsAsync(findModelFolder(w.context, 'none', noNotice), {
    instanceOf: DataError,
    message: 'there is no folder none',
  });
  mkdirSync(join(w.dir, 'empty'));
  await t.throwsAsync(findModelFolder(w.context, 'empty', noNotice), {
    instanceOf: DataError,
    message: /^empty is no run directory .* and no model folder/,
  });
  writeRunDirectory(join(w.dir, 'new'), RUN_YAML);
  await t.throwsAsync(findModelFolder(w.context, 'new', noNotice), {
    instanceOf: CheckpointError,
    message: 'the run in new has no checkpoint yet',
  });
});

const EVALUATION = { loss: 2, perplexity: Math.exp(2), tokens: 100, sequences: 4 };

test('eval measures the held-out text of the run unless told otherwise', async (t) => {
  const requests: EvaluationRequest[] = [];
  const evaluateModel = (request: EvaluationRequest): Promise<typeof EVALUATION> => {
    requests.push(request);
    return Promise.resolve(EVALUATION);
  };
  const w = await withRun(t, { services: { evaluateModel } });
  t.is(await w.run('eval', 'kept'), 0);
  t.like(requests[0], {
    dataPath: null,
    sequenceLength: 128,
    maxSequences: 0,
    batchSequences: 8,
    threads: 8,
  });
  t.is(w.out.text, 'loss 2.0000  perplexity 7.39  tokens 100  sequences 4  kept/checkpoints/step-000010\n');
  t.is(
    await w.run('eval', 'kept', '--data', 'x.txt', '--seq-len', '64', '--sequences', '5', '--threads', '2'),
    0,
  );
  t.like(requests[1], { dataPath: join(w.dir, 'x.txt'), sequenceLength: 64, maxSequences: 5, threads: 2 });
});

test('eval --json prints one object', async (t) => {
  const w = await withRun(t);
  t.is(await w.run('eval', 'kept', '--json'), 0);
  t.deepEqual(JSON.parse(w.out.text), {
    model: 'kept/checkpoints/step-000010',
    step: 10,
    data: 'held out',
    ...EVALUATION,
  });
});

test('eval of a classifier tells accuracy where others have perplexity', async (t) => {
  const measured = { ...EVALUATION, accuracy: 0.75, tokens: 4 };
  const w = await withRun(t, { services: { evaluateModel: () => Promise.resolve(measured) } });
  t.is(await w.run('eval', 'kept'), 0);
  t.is(w.out.text, 'loss 2.0000  accuracy 0.7500  texts 4  kept/checkpoints/step-000010\n');
  t.is(await w.run('eval', 'kept', '--json'), 0);
  const facts = JSON.parse(w.out.text.split('\n')[1]!) as object;
  t.deepEqual(Object.keys(facts), ['model', 'step', 'data', 'loss', 'accuracy', 'texts']);
});

test('eval leaves no status line behind on a terminal', async (t) => {
  const w = await withRun(t, {
    out: new FakeStream(true, 80),
    services: {
      evaluateModel: ({ onProgress }) => {
        onProgress('measuring', 0.5);
        return Promise.resolve(EVALUATION);
      },
    },
  });
  t.is(await w.run('eval', 'kept'), 0);
  t.true(w.out.text.startsWith('\r\u001b[2Kmeasuring  50%\r\u001b[2Kloss 2.0000'));
});

test('eval of a folder from elsewhere needs --data', async (t) => {
  const w = world(t);
  mkdirSync(join(w.dir, 'llama'));
  writeFileSync(join(w.dir, 'llama/config.json'), '{}');
  t.is(await w.run('eval', 'llama'), 2);
  t.is(w.err.text, 'error: llama belongs to no run, so there is no held-out text: give --data PATH\n');
});

test('eval and generate take another tokenizer where one is named', async (t) => {
  const evaluations: EvaluationRequest[] = [];
  const continuations: ContinuationRequest[] = [];
  const w = await withRun(t, {
    services: {
      evaluateModel: (request) => {
        evaluations.push(request);
        return Promise.resolve(EVALUATION);
      },
      continueText: (request) => {
        continuations.push(request);
        return Promise.resolve({ tokens: 0, end: 'limit' });
      },
    },
  });
  t.is(await w.run('eval', 'kept', '--data', 'x.txt', '--tokenizer', 'other'), 0);
  t.deepEqual(evaluations[0]?.folder.tokenizer, { type: 'file', path: join(w.dir, 'other') });
  t.is(await w.run('generate', 'kept', '--prompt', 'a', '--tokenizer', 'byte'), 0);
  t.deepEqual(continuations[0]?.folder.tokenizer, { type: 'byte' });
  t.is(await w.run('eval', 'kept', '--tokenizer', 'other'), 2);
  t.is(w.err.text, 'error: --tokenizer needs --data PATH: held-out text has the tokenizer of its run\n');
});

test('generate prints the prompt and what follows as it comes', async (t) => {
  const requests: ContinuationRequest[] = [];
  const w = await withRun(t, {
    services: {
      continueText: (request) => {
        requests.push(request);
        for (const text of [' citizens', ', of', ' the']) request.onText(text);
        return Promise.resolve({ tokens: 3, end: 'limit' });
      },
    },
  });
  t.is(await w.run('generate', 'kept', '--prompt', 'Fellow'), 0);
  t.is(w.out.text, 'Fellow citizens, of the\n');
  t.like(requests[0], {
    prompt: 'Fellow',
    maxTokens: 100,
    temperature: 0.8,
    topK: 0,
    topP: 1,
    seed: 0,
    threads: 8,
  });
  const flags = ['--max-tokens', '5', '--temperature', '0', '--top-k', '40', '--top-p', '0.9', '--seed', '7'];
  t.is(await w.run('generate', 'kept', '--prompt', '', ...flags), 0);
  t.like(requests[1], { prompt: '', maxTokens: 5, temperature: 0, topK: 40, topP: 0.9, seed: 7 });
});

test('generate ends after the token at hand on Ctrl-C', async (t) => {
  const w = await withRun(t, {
    services: {
      continueText: ({ signal, onText }) => {
        onText(' citizens');
        w.signal('SIGINT');
        return Promise.resolve({ tokens: 1, end: signal.aborted ? 'interrupted' : 'limit' });
      },
    },
  });
  t.is(await w.run('generate', 'kept', '--prompt', 'Fellow'), 0);
  t.is(w.out.text, 'Fellow citizens\n');
  t.deepEqual(w.exits, []);
});

test('numbers out of range are bad usage and load nothing', async (t) => {
  const w = world(t);
  for (const [flag, value, reason] of [
    ['--max-tokens', '0', /whole number from 1/],
    ['--temperature', '-1', /a number from 0 to 100/],
    ['--temperature', '', /a number from 0 to 100/],
    ['--top-p', '0', /above 0 and at most 1/],
    ['--top-k', '1.5', /whole number from 0/],
    ['--seed', '-1', /whole number from 0/],
  ] as const) {
    w.err.text = '';
    t.is(await w.run('generate', 'x', '--prompt', 'a', flag, value), 2, `${flag} ${value}`);
    t.regex(w.err.text, reason);
  }
  t.is(await w.run('generate', 'x'), 2);
  t.regex(w.err.text, /required option '--prompt <text>' not specified/);
});
