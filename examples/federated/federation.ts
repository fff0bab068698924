/** Runs of the example: sites that train together, and the same model trained in one place. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { launchProcess } from '../../src/cli/launch-process.ts';
import { deferred } from '../../src/deferred.ts';
import { SPAM_LABELS, type SpamSites } from './spam-sites.ts';

/** Optimizer steps of a site between two exchanges, and mails of each. */
export const LOCAL_STEPS = 4;
const BATCH = 16;
const SEQ_LEN = 64;
/** Of its own mails that a site measures itself by and does not train on; as many are held out where there are no sites. */
const HELD_OUT = 0.05;
/** On processors that can, which halves the time; on others bf16 is f32, and trainers say so. */
const PRECISION = 'bf16';
const TRAINER = { micro_batch: BATCH, precision: PRECISION };

/**
 * Gradients at a site whose mails are nearly all of one kind are next to nothing once it has learned that. Adam would make
 * whole steps of them, away from what the others learn; with an eps of the size of a useful gradient it does not.
 */
const EPS = 1e-3;
/** Where there are no rounds: learning rate of all sites' mails together, five times as many a step, and of those of one. */
const [RATE_CENTRAL, RATE_ALONE] = [5e-3, 3e-3];

/**
 * Rounds: both moments become the mean of all sites' with every exchange, so that a step of a site is in proportion to the
 * gradients of all (those of its own mails alone would lead it further away).
 */
const ROUNDS = {
  localSteps: { count: LOCAL_STEPS, moments: 'averaged', moment_periods: [1, 1], weighting: 'examples' },
  scheduleOf: (rounds: number, decay: number): object => ({
    ...{ type: 'wsd', warmup_steps: 2, decay_steps: Math.ceil(rounds * decay) },
  }),
};

/** What is trained of the model: its layers and the head; the embeddings stay as they are. */
export interface Method {
  readonly method: object;
  /** What is different where steps are rounds. */
  readonly inRounds: {
    readonly lr: number;
    /** Share of the rounds in which the learning rate falls. */
    readonly decay: number;
    readonly method: object;
  };
}

const TARGET_MODULES = ['query', 'key', 'value', 'dense'];

export const METHODS: Readonly<Record<string, Method>> = {
  galore: {
    method: {
      ...{ name: 'galore', rank: 32, scale: 0.25, update_proj_gap: 5, target_modules: TARGET_MODULES },
      param_groups: [{ match: ['embeddings'], policy: 'frozen' }],
    },
    // As far a step of the matrices as of the central run, and a smaller one of the head, which few labels pull most.
    inRounds: { lr: 2e-3, decay: 1 / 3, method: { scale: 1, update_proj_gap: 2 } },
  },
  lora: {
    method: { name: 'lora', rank: 16, lora_alpha: 32, target_modules: TARGET_MODULES },
    inRounds: { lr: 4e-3, decay: 2 / 3, method: {} },
  },
};

export interface Accuracy {
  readonly accuracy: number;
  readonly loss: number;
}

export interface Federated extends Accuracy {
  readonly run: string;
  readonly bytesPerSite: number;
  /** Of each site on what it holds out itself. */
  readonly sites: Readonly<Record<string, { readonly accuracy: number }>>;
}

/** What all runs of an example have in common. */
export interface RunBase {
  readonly model: string;
  readonly seed: number;
  readonly method: Method;
  readonly dir: string;
}

function configOf({ model, seed, method: { method } }: RunBase, name: string, batch: number): object {
  return {
    ...{ name, model: { path: model }, seq_len: SEQ_LEN, batch_size: batch, seed },
    task: { type: 'sequence-classification', labels: [...SPAM_LABELS] },
    tokenizer: { type: 'file', path: model },
    checkpoint: { every: 0 },
    trainer: TRAINER,
    method,
  };
}

/** What is different from the example. */
export interface FederatedOptions {
  readonly name?: string;
  /** Further fields of `coordinator`. */
  readonly coordinator?: object;
  readonly localSteps?: object;
  /** Where the trainer of a site connects, by the coordinator's address and the number of the site. */
  readonly urlOf?: (url: string, site: number) => Promise<string> | string;
}

/** A coordinator and a trainer for each site. */
export async function trainFederated(
  base: RunBase & { readonly rounds: number },
  mails: SpamSites,
  {
    name = 'federated',
    coordinator: more = {},
    localSteps = ROUNDS.localSteps,
    urlOf,
  }: FederatedOptions = {},
): Promise<Federated> {
  const { dir, rounds, method } = base;
  const run = join(dir, name);
  const sites = mails.sites.length;
  const file = join(dir, `${name}.yaml`);
  const config = {
    ...configOf(base, name, BATCH),
    optimizer: {
      eps: EPS,
      lr: method.inRounds.lr,
      schedule: ROUNDS.scheduleOf(rounds, method.inRounds.decay),
    },
    method: { ...method.method, ...method.inRounds.method },
    data: { local: true, validation_fraction: HELD_OUT },
    local_steps: localSteps,
    evaluation: { every: Math.ceil(rounds / 4) },
    // An example of a large site counts, and comes, as often as one of a small one.
    coordinator: { port: 0, start_trainers: sites, min_trainers: sites, sharding: 'examples', ...more },
    steps: rounds,
  };
  await writeFile(file, stringify(config));
  say(`\n${sites} sites, ${rounds} rounds of ${LOCAL_STEPS} steps of ${sites * BATCH} mails of all of them`);
  const url = deferred<string>();
  const coordinator = galore(['coordinator', file, '--dir', run], (line) => {
    if (/^(step|evaluation) /.test(line)) say(`  ${line}`);
    const match = /listening on (ws:\S+?\/);/.exec(line);
    if (match !== null) url.resolve(match[1]!);
  });
  coordinator.catch(url.reject);
  const address = await url.promise;
  const addresses = await Promise.all(mails.sites.map(async (_, i) => urlOf?.(address, i) ?? address));
  const trainers = mails.sites.map(({ path }, i) =>
    galore([
      ...['trainer', addresses[i]!, '--id', `site-${i + 1}`, '--data', path],
      ...['--threads', '1', '--precision', PRECISION],
    ]),
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
    ...(await measure(name, run, mails)),
    bytesPerSite: bytes.reduce((sum, count) => sum + count, 0) / sites,
    sites: evaluations.at(-1)!.sites,
  };
}

interface Metric {
  readonly traffic: {
    readonly trainers: Readonly<Record<string, { readonly up: Readonly<Record<string, number>> }>>;
  };
}

/** All sites' mails in one place: a step has as many as a step of all sites has, and two trainers share it. */
export function trainCentral(
  base: RunBase & { readonly steps: number },
  mails: SpamSites,
): Promise<Accuracy> {
  const batch = mails.sites.length * BATCH;
  return trainHere(base, 'central', mails.pooled.path, mails, { batch, lr: RATE_CENTRAL, trainers: 2 });
}

/** Each site by itself, in turn for as many mails as it had in the federated run; two at a time. */
export async function trainAlone(
  base: RunBase & { readonly steps: number },
  mails: SpamSites,
): Promise<readonly Accuracy[]> {
  const accuracies: Accuracy[] = [];
  const train = async (site: number): Promise<void> => {
    if (site >= mails.sites.length) return;
    const { path } = mails.sites[site]!;
    const options = { batch: BATCH, lr: RATE_ALONE, trainers: 1 };
    accuracies[site] = await trainHere(base, `alone-${site + 1}`, path, mails, options);
    await train(site + 2);
  };
  await Promise.all([train(0), train(1)]);
  return accuracies;
}

interface HereOptions {
  readonly batch: number;
  readonly lr: number;
  readonly trainers: number;
}

async function trainHere(
  base: RunBase & { readonly steps: number },
  name: string,
  path: string,
  mails: SpamSites,
  { batch, lr, trainers }: HereOptions,
): Promise<Accuracy> {
  const run = join(base.dir, name);
  const file = join(base.dir, `${name}.yaml`);
  const { steps } = base;
  const config = {
    ...configOf(base, name, batch),
    optimizer: { eps: EPS, lr, schedule: { type: 'cosine' } },
    trainer: { ...TRAINER, threads: 1 },
    data: { path, validation_fraction: HELD_OUT },
    coordinator: { port: 0, start_trainers: trainers },
    evaluation: { every: 0 },
    steps,
  };
  await writeFile(file, stringify(config));
  say(`\n${name}: ${steps} steps of ${batch} mails`);
  await galore(['train', file, '--dir', run], (line) => {
    const step = Number(/^step (\d+)\//.exec(line)?.[1] ?? 0);
    if (step > 0 && step % Math.ceil(steps / 4) === 0) say(`  ${name}: ${line}`);
  });
  return measure(name, run, mails);
}

/** On the mails that are held out from all. */
async function measure(name: string, run: string, { validation }: SpamSites): Promise<Accuracy> {
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
  say(`  ${name}, held out: accuracy ${(100 * accuracy).toFixed(1)}%, loss ${loss.toFixed(3)}`);
  return { accuracy, loss };
}

/** Runs a command; resolves to what it printed. */
export function galore(
  args: readonly string[],
  onLine: (line: string) => void = () => {},
): Promise<readonly string[]> {
  const lines: string[] = [];
  return new Promise((done, failed) => {
    if (isEnding) return failed(new Error('stopped'));
    const child = launchProcess(args, {
      onLine: (line) => {
        lines.push(line);
        onLine(line);
      },
      onExit: (code, how) => {
        children.delete(child);
        // A coordinator that was stopped in order has kept its run, but there is nothing to measure.
        if (isEnding) return failed(new Error('stopped'));
        if (code === 0) return done(lines);
        failed(new Error([`galore ${args.join(' ')} ended with ${how}:`, ...lines.slice(-8)].join('\n')));
      },
    });
    children.add(child);
  });
}

const children = new Set<ReturnType<typeof launchProcess>>();
let isEnding = false;

export async function parametersOf(run: string): Promise<number> {
  const lines = await galore(['inspect', run, '--json']);
  return (JSON.parse(lines.join('\n')) as { method: { weightNumbers: number } }).method.weightNumbers;
}

async function linesOf<T>(path: string): Promise<readonly T[]> {
  const lines = (await readFile(path, 'utf8')).split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as T);
}

/** Progress goes to standard error, so that with --json standard output has one line. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Ends what is running; nothing more begins. */
export function endProcesses(): void {
  isEnding = true;
  for (const child of children) child.kill('SIGTERM');
}
