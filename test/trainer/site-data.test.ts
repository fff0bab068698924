import { statSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { DataError } from '../../src/errors.ts';
import { sequenceAt } from '../../src/files/order.ts';
import { byteTokenizer } from '../../src/files/tokenizer.ts';
import { toLocalBatches } from '../../src/trainer/batches.ts';
import { IGNORED_LABEL, type ClassBatch, type TokenBatch } from '../../src/trainer/model/batch.ts';
import { openSiteData, type SiteData, type SiteDataOptions } from '../../src/trainer/site-data.ts';
import { temporaryFolder } from '../files/temporary-folder.ts';

const tokenizer = byteTokenizer();
const CLASSIFY = { labels: ['ham', 'spam'] };

async function open(
  t: ExecutionContext,
  content: string,
  changes: Partial<SiteDataOptions> = {},
): Promise<SiteData> {
  const folder = temporaryFolder(t, { 'private.jsonl': content });
  const site = await openSiteData({
    path: join(folder, 'private.jsonl'),
    task: {},
    tokenizer,
    seqLen: 8,
    validationFraction: 0,
    cacheDir: join(folder, 'cache'),
    skipBadLines: false,
    seed: 5,
    onProgress: () => {},
    ...changes,
  });
  t.teardown(() => site.close());
  return site;
}

const examples = (count: number): string =>
  Array.from({ length: count }, (_, i) => JSON.stringify({ text: `m${i}`, label: i % 2 })).join('\n');

test('the local steps of a step use the next examples of the order, those of the step after go on', async (t) => {
  const site = await open(t, examples(10), { task: CLASSIFY });
  t.is(site.trainExamples, 10);
  t.is(site.trainTokens, 20);
  const textsOf = async (step: number): Promise<string[][]> => {
    const sequences = await site.sequencesOf(step, 2, 3);
    t.is(sequences.length, 8);
    t.deepEqual(
      sequences.positions,
      Array.from({ length: 6 }, (_, i) => (step - 1) * 6 + i),
    );
    const steps = toLocalBatches(sequences, 3, 2) as readonly (readonly ClassBatch[])[];
    return steps.map((batches) =>
      batches.flatMap(({ ids, lengths, classes }) =>
        [...lengths].map((length, i) => {
          const text = tokenizer.decode([...ids.subarray(i * 8, i * 8 + length)]);
          t.is(classes[i], Number(text.slice(1)) % 2);
          return text;
        }),
      ),
    );
  };
  const place = (position: number): string => `m${sequenceAt(position, 10, 5, 'shuffled')}`;
  t.deepEqual(await textsOf(1), [[0, 1, 2].map(place), [3, 4, 5].map(place)]);
  t.deepEqual(await textsOf(2), [[6, 7, 8].map(place), [9, 10, 11].map(place)]);
});

test('a site with fewer examples than a batch repeats them', async (t) => {
  const site = await open(t, examples(2), { task: CLASSIFY });
  const { positions, labelled } = await site.sequencesOf(3, 4, 5);
  t.is(positions.length, 20);
  t.is(labelled!.classes.filter((each) => each === 1).length, 10);
});

test('completions are learnt and prompts are not, from sequences like those of a run', async (t) => {
  const content = '{"prompt": "ab", "completion": "cdefghi"}\n{"prompt": "jk", "completion": "lmnopqr"}';
  const site = await open(t, content);
  t.is(site.trainExamples, 2); // 18 tokens: 0..8 and 8..16
  t.is(site.trainTokens, 18);
  const sequences = await site.sequencesOf(1, 1, 2);
  t.is(sequences.length, 9);
  const [step] = toLocalBatches(sequences, 1, 1) as readonly (readonly TokenBatch[])[];
  const labelsOf = ({ labels }: TokenBatch): string =>
    [...labels].map((id) => (id === IGNORED_LABEL ? '.' : String.fromCharCode(id))).join('');
  t.deepEqual(step!.map(labelsOf).toSorted(), ['..lmnopq', '.cdefghi']);
});

test('the held-out part is what is not trained on, and comes in batches', async (t) => {
  const site = await open(t, examples(30), { task: CLASSIFY, validationFraction: 0.2 });
  t.is(site.validationExamples, 6);
  t.is(site.trainExamples, 24);
  const heldOut: string[] = [];
  const sizes: number[] = [];
  for await (const { tokens, labelled, positions } of site.validation(4)) {
    sizes.push(positions.length);
    for (const [i, length] of labelled!.lengths.entries())
      heldOut.push(tokenizer.decode([...tokens.subarray(i * 8, i * 8 + length)]));
  }
  t.deepEqual(sizes, [4, 2]);
  const { tokens, labelled } = await site.sequencesOf(1, 1, 24);
  const trained = [...labelled!.lengths].map((length, i) =>
    tokenizer.decode([...tokens.subarray(i * 8, i * 8 + length)]),
  );
  t.is(new Set([...heldOut, ...trained]).size, 30);
  const without = await open(t, examples(3), { task: CLASSIFY });
  t.is((await without.validation(4).next()).done, true);
});

test('what cannot be used is refused under the name of the option, or left out and counted', async (t) => {
  const refused = (content: string, changes?: Partial<SiteDataOptions>): Promise<DataError> =>
    t.throwsAsync(open(t, content, changes), { instanceOf: DataError });
  t.regex((await refused('')).message, /^--data: .*private\.jsonl is empty$/);
  t.regex((await refused('{"text": ""}')).message, /^--data holds no text at all$/);
  const bad = `${examples(4)}\n{"text": "x", "label": "eggs"}`;
  t.regex(
    (await refused(bad, { task: CLASSIFY })).message,
    /line 5: the label "eggs" is none of the run's labels/,
  );
  const site = await open(t, bad, { task: CLASSIFY, skipBadLines: true });
  t.is(site.trainExamples, 4);
  t.deepEqual(site.notices, ['1 line was left out: 1 with an unknown label (line 5)']);
});

test('a site of one label takes part, and its user is told', async (t) => {
  const site = await open(t, '{"text":"a","label":"spam"}\n{"text":"b","label":"spam"}', { task: CLASSIFY });
  t.regex(site.notices[0]!, /all 2 examples of .* have the same label, "spam"/);
  t.is((await site.sequencesOf(1, 1, 2)).labelled!.classes.join(), '1,1');
});

test('nobody else on the machine can read the tokens that are kept', async (t) => {
  const folder = temporaryFolder(t);
  const cacheDir = join(folder, 'deep', 'cache');
  await open(t, examples(3), { task: CLASSIFY, cacheDir });
  t.is(statSync(cacheDir).mode & 0o077, 0);
});
