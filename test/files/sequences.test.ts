import { join } from 'node:path';
import test from 'ava';
import { ConfigError } from '../../src/errors.ts';
import { prepareDataset, type DatasetOptions } from '../../src/files/dataset.ts';
import { countedLabels, readSequences } from '../../src/files/sequences.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { Message } from '../../src/protocol/messages.ts';
import { temporaryFolder } from './temporary-folder.ts';

test('labelled examples go the way of all data: read, assigned, and counted one by one', async (t) => {
  const lines = ['{"text":"abc","label":"b"}', '{"text":"defgh","label":"a"}', '{"text":"i","label":"b"}'];
  const folder = temporaryFolder(t, { 'a.jsonl': lines.join('\n') });
  const options: DatasetOptions = {
    data: { path: join(folder, 'a.jsonl'), format: 'auto', validation_fraction: 0 },
    labels: ['a', 'b'],
    tokenizer: { type: 'byte', vocab_size: 257 },
    seqLen: 4,
    cacheDir: join(folder, 'cache'),
    onProgress: () => {},
  };
  const dataset = await prepareDataset(options);
  t.teardown(() => dataset.close());
  t.is(dataset.train.count, 3);
  t.is(dataset.trainTokens, 3 + 4 + 1);
  t.is(dataset.validation, null);
  const sequences = await readSequences(dataset.train, [1, 0], [7, 8], 4);
  t.is(countedLabels(sequences), 2);
  const message: Message = {
    kind: 'stepAssignment',
    step: 1,
    learningRate: 0.1,
    seed: 1,
    sequences,
    localExamples: 0,
    refreshSlots: [],
    flushSlots: [],
    deadlineMs: 0,
  };
  const decoded = decodeEnvelope(encodeEnvelope(message), 'coordinator');
  if (decoded.kind !== 'stepAssignment') return t.fail(decoded.kind);
  const { positions, length, tokens, labelled } = decoded.sequences!;
  t.deepEqual(positions, [7, 8]);
  t.is(length, 4);
  t.is(Buffer.from(tokens).toString('latin1'), 'defgabc\0');
  t.deepEqual([...labelled!.classes], [0, 1]);
  t.deepEqual([...labelled!.lengths], [4, 3]);
  await t.throwsAsync(prepareDataset({ ...options, tokenizer: { type: 'bpe', vocab_size: 300 } }), {
    instanceOf: ConfigError,
    message: 'tokenizer.type is bpe; to classify texts it must be file or byte',
  });
});
