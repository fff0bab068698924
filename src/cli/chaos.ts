/** `galore chaos`: breaks a real run in many ways and looks whether anything is lost. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { loadRunConfig, parseRunConfig } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, OperatingError } from '../errors.ts';
import { runWithFaults, type ChaosRecord } from './chaos/chaos-run.ts';
import { breakLeaders, formatFailover, isSafe, replayOf } from './chaos/failover.ts';
import { FAILOVER_FAULTS, type FailoverFault } from './chaos/failover-faults.ts';
import { planFaults, ROLES, VERBS, type Fault, type Role, type Verb } from './chaos/faults.ts';
import { TINY_RUN, TINY_RUN_NAME } from './chaos/tiny-run.ts';
import { historyOf, isSound, judge, totalsOf, type Undisturbed, type Verdict } from './chaos/verdict.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { table } from './format.ts';
import { InterruptedError, onInterrupt } from './interrupts.ts';
import { debugOption, OverrideList, wholeNumber } from './options.ts';
import { shownPath } from './words.ts';

interface ChaosFlags {
  readonly seed: number;
  readonly kills: number;
  readonly runs: number;
  readonly trainers?: number;
  readonly only?: Role;
  readonly faults?: readonly string[];
  readonly state: 'files' | 'nats';
  readonly standbys?: number;
  readonly natsNodes?: number;
  readonly patience: number;
  readonly dir?: string;
  readonly json?: true;
}

const DEFAULT_TRAINERS = 2;
const DEFAULT_STANDBYS = 2;

/** Adds the command; `finish` takes its exit code. */
export function registerChaosCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides = new OverrideList();
  const command = program
    .command('chaos')
    .argument('[run.yaml]', 'the run to break; default: a tiny one that is built in')
    .summary('break a run in many ways and see that nothing is lost')
    .description(
      'Carries out a run on this machine twice: undisturbed, and with faults at seeded moments. Coordinator and\n' +
        'trainers are real processes, killed and started again, stopped and continued; each trainer has a link that\n' +
        'is cut, isolated and slowed. Then compares: every step that was told is there once, every sequence is\n' +
        'used once an epoch, and the weights are those of the undisturbed run, or, where other trainers did other\n' +
        'shares, those that `galore replay` makes from the journal.',
    )
    .option('--seed <n>', 'of the faults: the same seed gives the same ones', wholeNumber(0), 1)
    .option('--kills <k>', 'faults of each run', wholeNumber(0, 1000), 5)
    .option('--runs <n>', 'disturbed runs, with the seeds from --seed on', wholeNumber(1, 10_000), 1)
    .option('--trainers <k>', 'trainer processes; default: coordinator.start_trainers', wholeNumber(1, 64))
    .addOption(new Option('--only <role>', 'break nothing else').choices(ROLES))
    .option(
      '--faults <list>',
      `kinds of faults: some of ${VERBS.join(',')}; with --state nats of ${FAILOVER_FAULTS.join(',')}`,
      (text) => text.split(','),
    )
    .addOption(
      new Option('--state <kind>', 'nats: with standbys, on nats-servers of its own')
        .choices(['files', 'nats'])
        .default('files'),
    )
    .option(
      '--standbys <n>',
      'with --state nats: coordinators beside the leader; default 2',
      wholeNumber(1, 8),
    )
    .option(
      '--nats-nodes <n>',
      'with --state nats: servers of the NATS cluster, 1 or 3; default 1',
      natsNodes,
    )
    .option('--patience <s>', 'seconds without a new step after which a run hangs', wholeNumber(1), 120)
    .option('--dir <folder>', 'keep the run directories there; default: kept only of a run that went wrong')
    .option('--json', 'print a JSON object a line: one for each run, and at the end one for all');
  overrides
    .addTo(command)
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
kill: SIGKILL, started again within a second. stop: SIGSTOP, then SIGCONT.
cut: the connection breaks. isolate: it stays open and nothing comes through.
delay: all comes later. Links of the coordinator are those of all trainers.

With --state nats several coordinators share one run, and the faults are others: the leader is killed
(kill), stopped for longer than its lease (stop) or cut off from NATS (cut), a nats-server is killed (nats).
Each time the next step must be committed within 10 s, and no step may be lost or committed twice.
The next fault waits until the run goes on and, after that of a nats-server, its cluster is whole again.

Examples:
  galore chaos --seed 1 --kills 5
  galore chaos --runs 20 --kills 5 --json
  galore chaos --only coordinator --faults kill --kills 30 --steps 1500
  galore chaos run.yaml --trainers 3 --kills 10 --dir chaos-runs
  galore chaos --state nats --standbys 2 --nats-nodes 3 --kills 20

Exits with 0 if nothing was lost and with 3 if anything was, or a fault could not come about.`,
    )
    .action(async (file: string | undefined, flags: ChaosFlags) =>
      finish(await chaos(context, file, flags, overrides)),
    );
}

/** Checks --faults. @throws ConfigError */
function faultsOf<Name extends string>(
  given: readonly string[] | undefined,
  all: readonly Name[],
): readonly Name[] {
  if (given === undefined) return all;
  if (given.every((name): name is Name => (all as readonly string[]).includes(name))) return given;
  throw new ConfigError(
    `--faults is ${given.join()}; it must be some of ${all.join()}, with commas between them`,
  );
}

function natsNodes(text: string): number {
  if (text === '1' || text === '3') return Number(text);
  throw new InvalidArgumentError('It must be 1 or 3.');
}

async function chaos(
  context: CliContext,
  file: string | undefined,
  flags: ChaosFlags,
  overrides: OverrideList,
): Promise<number> {
  if (flags.state === 'files') faultsOf<Verb>(flags.faults, VERBS);
  const given = loadConfig(context, file, overrides);
  const trainers = flags.trainers ?? Math.max(DEFAULT_TRAINERS, given.coordinator.start_trainers);
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  const ending = new AbortController();
  using _ = onInterrupt(context.signals, { first: () => ending.abort(), again: () => {} });
  const folder = await folderOf(context, flags.dir);
  const isKept = flags.dir !== undefined;
  try {
    await context.services.ensureEngine(given.trainer.device, trainers);
    if (flags.state === 'nats') {
      const ids = Array.from({ length: trainers }, (_, i) => `trainer-${i + 1}`);
      return await failover(context, display, flags, given, ids, folder, ending.signal);
    }
    const bench = new ChaosBench(context, display, flags, given, trainers, folder, ending.signal);
    const verdicts = await bench.toEnd();
    const isAllSound = verdicts.every(isSound) && verdicts.every((each) => each.faultsFired === flags.kills);
    display.clear();
    const totals = totalsOf(verdicts);
    if (flags.json) display.line(JSON.stringify(totals));
    else for (const line of formatVerdicts(verdicts)) display.line(line);
    if (isAllSound && !isKept) await rm(folder, { recursive: true, force: true });
    else display.error(`the run directories are in ${shownPath(context.workingDir, folder)}\n`);
    return isAllSound ? EXIT_CODES.OK : EXIT_CODES.CANNOT_CONTINUE;
  } catch (error) {
    if (!isKept) await rm(folder, { recursive: true, force: true });
    if (!(error instanceof InterruptedError)) throw error;
    display.clear();
    display.error(`${error.message}\n`);
    return EXIT_CODES.INTERRUPTED;
  } finally {
    display.clear();
  }
}

async function failover(
  context: CliContext,
  display: Display,
  flags: ChaosFlags,
  config: RunConfig,
  trainerIds: readonly string[],
  folder: string,
  signal: AbortSignal,
): Promise<number> {
  const { seed, runs, kills, standbys = DEFAULT_STANDBYS, natsNodes: nodes = 1, json } = flags;
  const isKept = flags.dir !== undefined;
  const verdicts = await breakLeaders(context, display, {
    ...{ config, folder, seed, runs, kills, signal, trainerIds, isKept, natsNodes: nodes },
    kinds: faultsOf<FailoverFault>(flags.faults, FAILOVER_FAULTS),
    coordinators: standbys + 1,
    threads: config.trainer.threads || Math.max(1, Math.floor(context.cores / trainerIds.length)),
    patienceMs: 1000 * flags.patience,
    isJson: json === true,
  });
  display.clear();
  if (!json) for (const line of formatFailover(verdicts)) display.line(line);
  const isAllSafe = verdicts.every(isSafe);
  if (isAllSafe && !isKept) await rm(folder, { recursive: true, force: true });
  else display.error(`the run directories are in ${shownPath(context.workingDir, folder)}\n`);
  return isAllSafe ? EXIT_CODES.OK : EXIT_CODES.CANNOT_CONTINUE;
}

function loadConfig(context: CliContext, file: string | undefined, overrides: OverrideList): RunConfig {
  const { workingDir, environment } = context;
  const options = { workingDir, homeDir: environment.homeDir, overrides: overrides.list };
  return file === undefined
    ? parseRunConfig(TINY_RUN, `the built-in run ${TINY_RUN_NAME}`, options)
    : loadRunConfig(file, options);
}

async function folderOf(context: CliContext, dir: string | undefined): Promise<string> {
  if (dir === undefined) return await mkdtemp(join(tmpdir(), 'galore-chaos-'));
  const folder = resolve(context.workingDir, dir);
  await mkdir(folder, { recursive: true });
  return folder;
}

/** Several runs of one configuration. */
class ChaosBench {
  readonly #context: CliContext;
  readonly #display: Display;
  readonly #flags: ChaosFlags;
  readonly #config: RunConfig;
  readonly #folder: string;
  readonly #signal: AbortSignal;
  readonly #trainerIds: readonly string[];
  readonly #threads: number;

  constructor(
    context: CliContext,
    display: Display,
    flags: ChaosFlags,
    config: RunConfig,
    trainers: number,
    folder: string,
    signal: AbortSignal,
  ) {
    this.#context = context;
    this.#display = display;
    this.#flags = flags;
    this.#config = config;
    this.#folder = folder;
    this.#signal = signal;
    this.#trainerIds = Array.from({ length: trainers }, (_, i) => `trainer-${i + 1}`);
    this.#threads = config.trainer.threads || Math.max(1, Math.floor(context.cores / trainers));
  }

  async toEnd(): Promise<readonly Verdict[]> {
    const { seed, runs, json } = this.#flags;
    const undisturbed = await this.#undisturbed();
    const verdicts: Verdict[] = [];
    for (let i = 0; i < runs; i++) {
      const verdict = await this.#disturbed(seed + i, undisturbed);
      verdicts.push(verdict);
      if (json) this.#display.line(JSON.stringify(verdict));
      if (isSound(verdict) && this.#flags.dir === undefined) {
        await rm(this.#dirOf(`seed-${seed + i}`), { recursive: true, force: true });
      }
    }
    return verdicts;
  }

  /** @throws OperatingError if even that goes wrong */
  async #undisturbed(): Promise<Undisturbed> {
    const record = await this.#carryOut('undisturbed', []);
    if (record.weightsSha256 === null || record.unexpectedEnds.length > 0) {
      const [end] = record.unexpectedEnds;
      const why = end === undefined ? 'it came to a stop' : `${end.name} ended (${end.how})`;
      const lines = [`the run cannot be carried out even without faults: ${why}`, ...(end?.lines ?? [])];
      throw new OperatingError(lines.join('\n'));
    }
    const history = await historyOf(this.#configOf('undisturbed').dir);
    return { weightsSha256: record.weightsSha256, history };
  }

  async #disturbed(seed: number, undisturbed: Undisturbed): Promise<Verdict> {
    const { kills: count, only = null } = this.#flags;
    const plan = {
      seed,
      count,
      steps: this.#config.steps,
      trainerIds: this.#trainerIds,
      verbs: faultsOf<Verb>(this.#flags.faults, VERBS),
      only,
    };
    const name = `seed-${seed}`;
    const record = await this.#carryOut(name, planFaults(plan));
    for (const { name: member, how, lines } of record.unexpectedEnds) {
      this.#display.error([`${name}: ${member} ended (${how}):`, ...lines, ''].join('\n'));
    }
    const config = this.#configOf(name);
    const replay = (): Promise<string | null> => this.#replay(config.dir);
    return await judge({ seed, config, faultsPlanned: count, record, undisturbed, replay });
  }

  async #carryOut(name: string, faults: readonly Fault[]): Promise<ChaosRecord> {
    const scratch = this.#dirOf(name);
    await mkdir(scratch, { recursive: true });
    const config = this.#configOf(name);
    const show = (step: number): void =>
      this.#display.status(`${name}: step ${step}/${config.steps}, ${fired} of ${faults.length} faults`);
    let fired = 0;
    return await runWithFaults({
      ...{ config, scratch, faults, trainerIds: this.#trainerIds, threads: this.#threads },
      launch: this.#context.launchProcess,
      patienceMs: 1000 * this.#flags.patience,
      signal: this.#signal,
      onStep: show,
      onFault: (fault) => {
        fired += 1;
        if (!this.#flags.json) this.#display.line(`${name}: ${describeFault(fault)}`);
      },
    });
  }

  #dirOf(name: string): string {
    return join(this.#folder, name);
  }

  /** On this machine alone, where nobody needs a token, and with nothing on its disk. */
  #configOf(name: string): RunConfig {
    const { tls: _, ...coordinator } = this.#config.coordinator;
    return {
      ...this.#config,
      dir: join(this.#dirOf(name), 'run'),
      coordinator: {
        ...coordinator,
        ...{
          host: '127.0.0.1',
          port: 0,
          auth: {},
          local_trainers: 0,
          start_trainers: this.#trainerIds.length,
        },
      },
    };
  }

  #replay(dir: string): Promise<string | null> {
    return replayOf(this.#context, dir, this.#threads);
  }
}

function describeFault({ verb, target, step, durationMs, latencyMs }: Fault): string {
  const by = verb === 'delay' ? ` by ${latencyMs} ms` : '';
  return `after step ${step}: ${verb} ${target}${by} for ${(durationMs / 1000).toFixed(1)} s`;
}

/** A row for each run, and the verdict. */
export function formatVerdicts(verdicts: readonly Verdict[]): readonly string[] {
  const headings = [
    'seed',
    'faults',
    'steps',
    'lost',
    'twice',
    'sequences',
    'weights',
    'recovery',
    'seconds',
  ];
  const rows = verdicts.map((each) => [
    String(each.seed),
    `${each.faultsFired} of ${each.faultsPlanned}`,
    each.hung ? `HUNG at ${each.steps}` : String(each.steps),
    String(each.lostSteps),
    String(each.duplicateSteps),
    each.coverageExact ? 'once each' : 'NOT EXACT',
    weightsInWords(each),
    `${each.maxRecoverySeconds.toFixed(1)} s`,
    each.seconds.toFixed(0),
  ]);
  const { runs, soundRuns, faultsFired, faultsPlanned, firedByVerb, unexpectedEnds } = totalsOf(verdicts);
  const byVerb = VERBS.flatMap((verb) => (verb in firedByVerb ? [`${firedByVerb[verb]} ${verb}`] : []));
  return [
    ...table([headings, ...rows]),
    '',
    `faults: ${[...byVerb, `${faultsFired} of ${faultsPlanned} in all`].join(', ')}` +
      (unexpectedEnds === 0 ? '' : `; ${unexpectedEnds} processes ended by themselves`),
    soundRuns === runs
      ? `nothing was lost in ${runs} of ${runs} runs`
      : `${runs - soundRuns} of ${runs} runs WENT WRONG`,
  ];
}

function weightsInWords({ weightsEqual, explanation }: Verdict): string {
  return weightsEqual ? `as ${explanation}` : `NOT as ${explanation}`;
}
