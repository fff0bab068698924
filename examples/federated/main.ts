/**
 * Five sites with mail of their own learn together to tell spam, and none of it leaves them:
 *
 *     npm run example:federated [-- --seed 0 --dir runs/federated --method galore|lora --rounds 30 --mails 3150 --json]
 *
 * A coordinator and five trainers are started as processes of this machine, as they would be on six. Beside them the same
 * model is trained on all mails together for as many examples, and by each site alone for a fifth as many, its equal
 * share; all are measured on the same held-out mails. docs/federated.md has what came of it.
 */
import { mkdir, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { formatBytes } from '../../src/cli/format.ts';
import { readEnvironment } from '../../src/config/environment.ts';
import { fetchMails, fetchModel } from './fetch.ts';
import {
  endProcesses,
  galore,
  LOCAL_STEPS,
  METHODS,
  parametersOf,
  say,
  trainAlone,
  trainCentral,
  trainFederated,
} from './federation.ts';
import { SPAM_SITES, spamSitesTable, writeSpamSites, type SpamSites } from './spam-sites.ts';

async function main(): Promise<void> {
  const { values: options } = parseArgs({
    options: {
      seed: { type: 'string', default: '0' },
      dir: { type: 'string', default: 'runs/federated' },
      method: { type: 'string', default: 'galore' },
      rounds: { type: 'string', default: '30' },
      mails: { type: 'string', default: String(SPAM_SITES.mails) },
      json: { type: 'boolean', default: false },
    },
  });
  const startedMs = performance.now();
  const method = METHODS[options.method];
  if (method === undefined) throw new Error(`--method is ${options.method}; galore and lora are known`);
  const [seed, rounds, mailCount] = [
    wholeNumber('--seed', options.seed, 0),
    wholeNumber('--rounds', options.rounds, 1),
    wholeNumber('--mails', options.mails, 500),
  ];
  const dir = resolve(options.dir);
  const { cacheDir } = readEnvironment();
  const model = await fetchModel(cacheDir, say);
  const corpus = await fetchMails(cacheDir, say);
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  const mails = await writeSpamSites({ ...SPAM_SITES, dir, seed, mails: mailCount, corpus });
  say(spamSitesTable(mails));
  const base = { model, seed, method };

  const federated = await trainFederated({ ...base, dir, rounds }, mails);
  const steps = rounds * LOCAL_STEPS;
  const central = await trainCentral({ ...base, dir, steps }, mails);
  const alone = await trainAlone({ ...base, dir, steps }, mails);

  const aloneMeanAccuracy = alone.reduce((sum, { accuracy }) => sum + accuracy, 0) / alone.length;
  const denseBytesPerSite = 4 * (await parametersOf(federated.run)) * rounds;
  const exported = join(dir, 'exported');
  await galore(['export', federated.run, exported, ...(options.method === 'lora' ? ['--merge'] : [])]);
  const text = 'You have won! Click here to claim your free prize money now';
  const predicted = await galore(['predict', exported, text]);
  const result = {
    ...{ seed, method: options.method, rounds, localSteps: LOCAL_STEPS },
    federatedAccuracy: federated.accuracy,
    centralAccuracy: central.accuracy,
    aloneMeanAccuracy,
    aloneAccuracies: alone.map(({ accuracy }) => accuracy),
    siteAccuracies: Object.values(federated.sites).map(({ accuracy }) => accuracy),
    siteMails: mails.sites.map((site) => site.mails),
    bytesPerSite: federated.bytesPerSite,
    denseBytesPerSite,
    seconds: (performance.now() - startedMs) / 1000,
  };
  if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else
    for (const line of [...tableOf(result, mails), ...predicted.slice(-2)]) process.stdout.write(`${line}\n`);
}

/** What was given for `option` as a whole number. @throws Error that names it, what was given and what is allowed. */
function wholeNumber(option: string, given: string, least: number): number {
  const number = Number(given);
  if (given.trim() !== '' && Number.isSafeInteger(number) && number >= least) return number;
  throw new Error(`${option} is ${given}; a whole number of ${least} or more is needed`);
}

interface Result {
  readonly federatedAccuracy: number;
  readonly centralAccuracy: number;
  readonly aloneMeanAccuracy: number;
  readonly aloneAccuracies: readonly number[];
  readonly siteAccuracies: readonly number[];
  readonly bytesPerSite: number;
  readonly denseBytesPerSite: number;
  readonly seconds: number;
}

function tableOf(result: Result, { sites }: SpamSites): readonly string[] {
  const percent = (share: number): string => (100 * share).toFixed(1).padStart(6);
  const alone = result.aloneAccuracies.map((accuracy, i) => {
    const { mails, spam } = sites[i]!;
    const own = result.siteAccuracies[i];
    const told = own === undefined ? '' : `; the federated model on what it holds out itself ${percent(own)}`;
    return `  site ${i + 1} alone ${percent(accuracy)}   (${mails} mails, ${((100 * spam) / mails).toFixed(0)}% spam${told})`;
  });
  const ratio = result.denseBytesPerSite / result.bytesPerSite;
  return [
    '',
    'accuracy on the mails held out from all sites, in percent',
    `  federated    ${percent(result.federatedAccuracy)}`,
    `  central      ${percent(result.centralAccuracy)}`,
    `  alone, mean  ${percent(result.aloneMeanAccuracy)}`,
    ...alone,
    `each site sent ${formatBytes(result.bytesPerSite)}; dense f32 FedAvg of as many rounds ${formatBytes(result.denseBytesPerSite)}: ${ratio.toFixed(0)}x as much`,
    `${(result.seconds / 60).toFixed(1)} minutes on ${availableParallelism()} cores`,
    '',
  ];
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    endProcesses();
    process.exitCode = 130;
  });
}
try {
  await main();
} catch (error) {
  if (process.exitCode === 130) say('stopped');
  else {
    say(`error: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
} finally {
  endProcesses();
}
