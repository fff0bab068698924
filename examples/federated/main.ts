/**
 * Five sites with mail of their own learn together to tell spam, and none of it leaves them:
 *
 *     npm run example:federated [-- --seed 0 --dir runs/federated --method galore|lora --rounds 20 --mails 3150 --json]
 *
 * A coordinator and five trainers are started as processes of this machine, as they would be on six. Beside them the same
 * model is trained on all mails together for as many examples, and by each site alone for as many as it had in the
 * federated run; all are measured on the same held-out mails. README.md has what came of it.
 */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import { launchProcess } from '../../src/cli/launch-process.ts';
import { formatBytes } from '../../src/cli/format.ts';
import { deferred } from '../../src/deferred.ts';
import { readEnvironment } from '../../src/config/environment.ts';
import { fetchMails, fetchModel } from './fetch.ts';
import { SPAM_LABELS, SPAM_SITES, spamSitesTable, writeSpamSites, type SpamSites } from './spam-sites.ts';

const { values: options } = parseArgs({
  options: {
    seed: { type: 'string', default: '0' },
    dir: { type: 'string', default: 'runs/federated' },
    method: { type: 'string', default: 'galore' },
    rounds: { type: 'string', default: '20' },
    mails: { type: 'string', default: String(SPAM_SITES.mails) },
    json: { type: 'boolean', default: false },
  },
});

/** Optimizer steps of a site between two exchanges, and mails of each. */
const LOCAL_STEPS = 4;
const BATCH = 16;
const SEQ_LEN = 64;

/** What is trained of the model: its layers and the head; the embeddings stay as they are. */
const METHODS: Readonly<Record<string, object>> = {
  galore: {
    method: {
      ...{ name: 'galore', rank: 16, scale: 1, update_proj_gap: 5, moments: 'reset' },
      target_modules: ['query', 'key', 'value', 'dense'],
      param_groups: [{ match: ['embeddings'], policy: 'frozen' }],
    },
    optimizer: { lr: 1e-3 },
  },
  lora: {
    method: { name: 'lora', rank: 16, lora_alpha: 32, target_modules: ['query', 'key', 'value', 'dense'] },
    optimizer: { lr: 1e-3 },
  },
};

interface Accuracy {
  readonly accuracy: number;
  readonly loss: number;
}

interface Federated extends Accuracy {
  readonly run: string;
  readonly bytesPerSite: number;
  /** Of each site on what it holds out itself. */
  readonly sites: Readonly<Record<string, { readonly accuracy: number }>>;
}

async function main(): Promise<void> {
  const startedMs = performance.now();
  const settings = METHODS[options.method];
  if (settings === undefined) throw new Error(`--method is ${options.method}; galore and lora are known`);
  const [seed, rounds] = [Number(options.seed), Number(options.rounds)];
  const dir = resolve(options.dir);
  const { cacheDir } = readEnvironment();
  const model = await fetchModel(cacheDir, say);
  const corpus = await fetchMails(cacheDir, say);
  await rm(dir, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  const mails = await writeSpamSites({ ...SPAM_SITES, dir, seed, mails: Number(options.mails), corpus });
  say(spamSitesTable(mails));
  const base = { model, seed, settings };

  const federated = await trainFederated({ ...base, dir, rounds }, mails);
  const steps = rounds * LOCAL_STEPS;
  const central = await trainHere(
    { ...base, dir, steps: steps * mails.sites.length },
    'central',
    mails.pooled.path,
    mails,
  );
  const alone: Accuracy[] = [];
  for (const [i, { path }] of mails.sites.entries()) {
    alone.push(await trainHere({ ...base, dir, steps }, `alone-${i + 1}`, path, mails));
  }

  const aloneMeanAccuracy = alone.reduce((sum, { accuracy }) => sum + accuracy, 0) / alone.length;
  const denseBytesPerSite = 4 * (await parametersOf(federated.run)) * rounds;
  const exported = join(dir, 'exported');
  await galore([
    'export',
    federated.run,
    '--to',
    exported,
    ...(options.method === 'lora' ? ['--merge'] : []),
  ]);
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

interface RunBase {
  readonly model: string;
  readonly seed: number;
  readonly settings: object;
  readonly dir: string;
}

function configOf({ model, seed, settings }: RunBase, name: string): object {
  return {
    ...{ name, model: { path: model }, seq_len: SEQ_LEN, batch_size: BATCH, seed },
    task: { type: 'sequence-classification', labels: [...SPAM_LABELS] },
    tokenizer: { type: 'file', path: model },
    checkpoint: { every: 0 },
    trainer: { micro_batch: BATCH },
    ...settings,
  };
}

/** A coordinator and a trainer for each site. */
async function trainFederated(
  base: RunBase & { readonly rounds: number },
  mails: SpamSites,
): Promise<Federated> {
  const { dir, rounds } = base;
  const run = join(dir, 'federated');
  const sites = mails.sites.length;
  const file = join(dir, 'federated.yaml');
  const config = {
    ...configOf(base, 'federated'),
    data: { local: true, validation_fraction: 0.1 },
    local_steps: { count: LOCAL_STEPS },
    evaluation: { every: Math.ceil(rounds / 4) },
    coordinator: { port: 0, start_trainers: sites, min_trainers: sites },
    steps: rounds,
  };
  await writeFile(file, stringify(config));
  say(`\n${sites} sites, ${rounds} rounds of ${LOCAL_STEPS} steps of ${BATCH} mails`);
  const url = deferred<string>();
  const coordinator = galore(['coordinator', file, '--dir', run], (line) => {
    if (/^(step|evaluation) /.test(line)) say(`  ${line}`);
    const match = /listening on (ws:\S+?\/);/.exec(line);
    if (match !== null) url.resolve(match[1]!);
  });
  coordinator.catch(url.reject);
  const address = await url.promise;
  const trainers = mails.sites.map(({ path }, i) =>
    galore(['trainer', address, '--id', `site-${i + 1}`, '--data', path, '--threads', '1']),
  );
  await Promise.all([coordinator, ...trainers]);
  const metrics = await linesOf<Metric>(join(run, 'metrics.jsonl'));
  const up = metrics.flatMap(({ traffic }) => Object.values(traffic.trainers).map(({ up: sent }) => sent));
  const bytes = up.flatMap((sent) =>
    Object.entries(sent).map(([kind, count]) => (kind === 'snapshot' ? 0 : count)),
  );
  const evaluations = await linesOf<{ sites: Federated['sites'] }>(join(run, 'evaluations.jsonl'));
  return {
    run,
    ...(await measure(run, mails)),
    bytesPerSite: bytes.reduce((sum, count) => sum + count, 0) / sites,
    sites: evaluations.at(-1)!.sites,
  };
}

interface Metric {
  readonly traffic: {
    readonly trainers: Readonly<Record<string, { readonly up: Readonly<Record<string, number>> }>>;
  };
}

/** All of the mails of a file in one place. */
async function trainHere(
  base: RunBase & { readonly steps: number },
  name: string,
  path: string,
  mails: SpamSites,
): Promise<Accuracy> {
  const run = join(base.dir, name);
  const file = join(base.dir, `${name}.yaml`);
  const { steps } = base;
  const config = {
    ...configOf(base, name),
    data: { path, validation_fraction: 0 },
    coordinator: { port: 0 },
    evaluation: { every: 0 },
    steps,
  };
  await writeFile(file, stringify(config));
  say(`\n${name}: ${steps} steps of ${BATCH} mails`);
  await galore(['train', file, '--dir', run], (line) => {
    const step = Number(/^step (\d+)\//.exec(line)?.[1] ?? 0);
    if (step > 0 && step % Math.ceil(steps / 4) === 0) say(`  ${line}`);
  });
  return measure(run, mails);
}

/** On the mails that are held out from all. */
async function measure(run: string, { validation }: SpamSites): Promise<Accuracy> {
  const lines = await galore([
    'eval',
    run,
    '--data',
    validation.path,
    '--seq-len',
    String(SEQ_LEN),
    '--batch-size',
    '32',
    '--json',
  ]);
  const { accuracy, loss } = JSON.parse(lines.findLast((line) => line.startsWith('{'))!) as Accuracy;
  say(`  held out: accuracy ${(100 * accuracy).toFixed(1)}%, loss ${loss.toFixed(3)}`);
  return { accuracy, loss };
}

/** Runs a command; resolves to what it printed. */
function galore(
  args: readonly string[],
  onLine: (line: string) => void = () => {},
): Promise<readonly string[]> {
  const lines: string[] = [];
  return new Promise((done, failed) => {
    const child = launchProcess(args, {
      onLine: (line) => {
        lines.push(line);
        onLine(line);
      },
      onExit: (code, how) => {
        children.delete(child);
        if (code === 0) return done(lines);
        failed(new Error([`galore ${args.join(' ')} ended with ${how}:`, ...lines.slice(-8)].join('\n')));
      },
    });
    children.add(child);
  });
}

const children = new Set<ReturnType<typeof launchProcess>>();

async function parametersOf(run: string): Promise<number> {
  const lines = await galore(['inspect', run, '--json']);
  return (JSON.parse(lines.join('\n')) as { method: { weightNumbers: number } }).method.weightNumbers;
}

async function linesOf<T>(path: string): Promise<readonly T[]> {
  const lines = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as T);
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

/** Progress goes to standard error, so that with --json standard output has one line. */
function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    for (const child of children) child.kill('SIGTERM');
    process.exitCode = 130;
  });
}
await main();
