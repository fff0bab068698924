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

/**
 * Gradients at a site whose mails are nearly all of one kind are next to nothing once it has learned that. Adam would make
 * whole steps of them, away from what the others learn; with an eps of the size of a useful gradient it does not.
 */
const OPTIMIZER = { eps: 1e-3, schedule: { type: 'cosine' } };
/** Learning rates. One of the mean of five sites may be greater: at 5e-3 training in one place diverges. */
const [RATE_TOGETHER, RATE_HERE] = [5e-3, 3e-3];

/** What is trained of the model: its layers and the head; the embeddings stay as they are. */
export const METHODS: Readonly<Record<string, object>> = {
  galore: {
    method: {
      ...{ name: 'galore', rank: 32, scale: 0.25, update_proj_gap: 5 },
      target_modules: ['query', 'key', 'value', 'dense'],
      param_groups: [{ match: ['embeddings'], policy: 'frozen' }],
    },
  },
  lora: {
    method: { name: 'lora', rank: 16, lora_alpha: 32, target_modules: ['query', 'key', 'value', 'dense'] },
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
  readonly settings: object;
  readonly dir: string;
}

function configOf({ model, seed, settings }: RunBase, name: string, lr: number): object {
  return {
    ...{ name, model: { path: model }, seq_len: SEQ_LEN, batch_size: BATCH, seed },
    task: { type: 'sequence-classification', labels: [...SPAM_LABELS] },
    tokenizer: { type: 'file', path: model },
    checkpoint: { every: 0 },
    trainer: { micro_batch: BATCH },
    optimizer: { ...OPTIMIZER, lr },
    ...settings,
  };
}

/** What is different from the example. */
export interface FederatedOptions {
  readonly name?: string;
  /** Further fields of `coordinator`. */
  readonly coordinator?: object;
  readonly weighting?: string;
  /** Where the trainer of a site connects, by the coordinator's address and the number of the site. */
  readonly urlOf?: (url: string, site: number) => Promise<string> | string;
}

/** A coordinator and a trainer for each site. */
export async function trainFederated(
  base: RunBase & { readonly rounds: number },
  mails: SpamSites,
  { name = 'federated', coordinator: more = {}, weighting = 'examples', urlOf }: FederatedOptions = {},
): Promise<Federated> {
  const { dir, rounds } = base;
  const run = join(dir, name);
  const sites = mails.sites.length;
  const file = join(dir, `${name}.yaml`);
  const config = {
    ...configOf(base, name, RATE_TOGETHER),
    data: { local: true, validation_fraction: 0.1 },
    local_steps: { count: LOCAL_STEPS, moments: 'reset', weighting },
    evaluation: { every: Math.ceil(rounds / 4) },
    coordinator: { port: 0, start_trainers: sites, min_trainers: sites, ...more },
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
  const addresses = await Promise.all(mails.sites.map(async (_, i) => urlOf?.(address, i) ?? address));
  const trainers = mails.sites.map(({ path }, i) =>
    galore(['trainer', addresses[i]!, '--id', `site-${i + 1}`, '--data', path, '--threads', '1']),
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
export async function trainHere(
  base: RunBase & { readonly steps: number },
  name: string,
  path: string,
  mails: SpamSites,
): Promise<Accuracy> {
  const run = join(base.dir, name);
  const file = join(base.dir, `${name}.yaml`);
  const { steps } = base;
  const config = {
    ...configOf(base, name, RATE_HERE),
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
export function galore(
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

/** Ends what is running. */
export function endProcesses(): void {
  for (const child of children) child.kill('SIGTERM');
}
