/**
 * Two of seven sites send garbage: accuracy of the federated example with the mean and with robust rules of
 * aggregation, beside the run in which all are honest. Real processes; the garbage is made by a proxy on the way.
 *
 *     node dist/bench/robust-sites.js [--rounds 20] [--mails 3150] [--seed 0] [--garbage scaled,flipped,random] [--rules trimmed-mean,multi-krum,median]
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readEnvironment } from '../src/config/environment.ts';
import { fetchMails, fetchModel } from '../examples/federated/fetch.ts';
import {
  LOCAL_STEPS,
  METHODS,
  say,
  trainFederated,
  type FederatedOptions,
} from '../examples/federated/federation.ts';
import { SPAM_SITES, spamSitesTable, writeSpamSites } from '../examples/federated/spam-sites.ts';
import { GARBAGE, garbageProxy } from '../test/support/garbage-proxy.ts';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    mails: { type: 'string', default: String(SPAM_SITES.mails) },
    seed: { type: 'string', default: '0' },
    garbage: { type: 'string', default: 'scaled,flipped,random' },
    rules: { type: 'string', default: 'trimmed-mean,multi-krum,median' },
    alpha: { type: 'string', default: '1' },
  },
});

const SITES = 7;
const LIARS = 2;

const { cacheDir } = readEnvironment();
const dir = await mkdtemp(join(tmpdir(), 'galore-robust-'));
const closers: (() => unknown)[] = [];
try {
  const [seed, rounds] = [Number(options.seed), Number(options.rounds)];
  const [model, corpus] = [await fetchModel(cacheDir, say), await fetchMails(cacheDir, say)];
  await mkdir(dir, { recursive: true });
  const shape = { sites: SITES, alpha: Number(options.alpha), mails: Number(options.mails) };
  const mails = await writeSpamSites({ ...SPAM_SITES, ...shape, dir, seed, corpus });
  say(spamSitesTable(mails));
  const base = { model, seed, method: METHODS['galore']!, dir, rounds };
  // Not averaged moments: the rules that look at whole contributions do not go with them.
  const localSteps = { count: LOCAL_STEPS, moments: 'reset', weighting: 'equal' };
  const accuracyOf = async (rule: string, kind: string, more: FederatedOptions): Promise<void> => {
    const name = `${rule}-${kind}`;
    const coordinator = { sharding: 'equal', ...more.coordinator };
    const { accuracy } = await trainFederated(base, mails, { name, localSteps, ...more, coordinator });
    process.stdout.write(`${`${rule}, ${kind}`.padEnd(28)} ${(100 * accuracy).toFixed(1)}\n`);
  };
  await accuracyOf('mean', 'honest', {});
  const wanted = options.garbage.split(',');
  for (const kind of GARBAGE.filter((name) => wanted.includes(name))) {
    const urlOf = async (url: string, site: number): Promise<string> => {
      if (site >= LIARS) return url;
      const proxy = await garbageProxy({ teardown: (close) => void closers.push(close) }, url, kind);
      return proxy.url;
    };
    await accuracyOf('mean', kind, { urlOf });
    for (const rule of options.rules.split(',')) {
      await accuracyOf(rule, kind, {
        urlOf,
        coordinator: { aggregation: { rule, byzantine: LIARS } },
      });
    }
  }
} finally {
  for (const close of closers) await close();
  await rm(dir, { recursive: true, force: true });
}
