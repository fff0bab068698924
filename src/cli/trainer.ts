/** `galore trainer`: joins a run from this machine. */
import { InvalidArgumentError, type Command } from 'commander';
import type { DeviceWish } from '../device-name.ts';
import { createLogger, printable } from '../log.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { onInterrupt } from './interrupts.ts';
import { addOutputOptions, deviceOption, wholeNumber, type OutputOptions } from './options.ts';

interface TrainerFlags extends OutputOptions {
  readonly id?: string;
  readonly run: string;
  readonly token?: string;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly quiet?: true;
}

/** How long a trainer whose parent is gone may take to leave. */
const ORPHAN_TIME_MS = 10_000;
const MAX_THREADS = 1024;

/** Adds the command; `finish` takes its exit code. */
export function registerTrainerCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const command = program
    .command('trainer')
    .argument('<url>', 'where the coordinator listens: ws://HOST:PORT or wss://HOST', webSocketUrl)
    .summary('join a run from this machine')
    .description(
      'Joins a run: receives the model and its state, computes gradients, sends them compressed.\n' +
        'It reconnects by itself, and leaves when the run ends.',
    )
    .option('--id <name>', 'name of this trainer; default: host name and process number', trainerName)
    .option('--run <name>', 'take part only in the run of this name', '')
    .option('--token <token>', 'join token; better given as GALORE_TOKEN, which other users cannot see')
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, MAX_THREADS))
    .addOption(deviceOption())
    .option('--quiet', 'no status line');
  addOutputOptions(command, 'info').addHelpText(
    'after',
    `
Examples:
  galore trainer ws://192.168.1.20:29400
  GALORE_TOKEN=… galore trainer wss://train.example.org/ --id garage-pc --threads 8

Ctrl-C leaves the run in good order; a second Ctrl-C ends at once.`,
  );
  command.action(async (url: string, flags: TrainerFlags) => finish(await joinRun(context, url, flags)));
}

async function joinRun(context: CliContext, url: string, flags: TrainerFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.quiet);
  const trainerId = flags.id ?? defaultTrainerId(context.hostName, context.processId);
  const logger = createLogger({
    level: flags.logLevel,
    format: flags.logJson ? 'json' : 'text',
    mayColour: context.environment.mayColour && context.stderr.isTTY === true,
    write: (line) => display.error(line),
    fields: flags.logJson ? { trainer: trainerId } : {},
  });
  const leaving = new AbortController();
  using _ = onInterrupt(context.signals, {
    first: () => {
      logger.info('trainer.leaving', {}, 'leaving the run; again to quit at once');
      leaving.abort();
    },
    again: () => {
      display.close();
      context.exitNow(EXIT_CODES.INTERRUPTED);
    },
  });
  context.onParentGone?.(() => {
    leaving.abort();
    context.after(ORPHAN_TIME_MS, () => context.exitNow(EXIT_CODES.CANNOT_CONTINUE));
  });
  try {
    const [device] = await context.services.ensureEngine(flags.device);
    const { code, reason } = await context.services.runTrainer({
      url,
      trainerId,
      runName: flags.run,
      token: flags.token ?? context.environment.token,
      threads: flags.threads ?? context.cores,
      device,
      logger,
      signal: leaving.signal,
      onActivity: (text) => display.status(`${trainerId} · ${printable(text)}`),
    });
    display.close();
    if (code !== EXIT_CODES.OK) display.error(`error: ${printable(reason)}\n`);
    else if (!flags.quiet) display.line(printable(reason));
    return code;
  } finally {
    display.close();
  }
}

function webSocketUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol === 'ws:' || url?.protocol === 'wss:') return text;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') {
    throw new InvalidArgumentError(`Write ${text.replace(/^http/, 'ws')}.`);
  }
  throw new InvalidArgumentError('It must begin with ws:// or wss://, such as ws://127.0.0.1:29400.');
}

const TRAINER_NAME = /^[A-Za-z0-9._-]{1,64}$/;

function trainerName(text: string): string {
  if (TRAINER_NAME.test(text)) return text;
  throw new InvalidArgumentError('It takes 1 to 64 letters, digits, ".", "_" or "-".');
}

/** A name of this process on this machine, in the letters a trainer id may have. */
export function defaultTrainerId(hostName: string, processId: number): string {
  const host = hostName.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, 48) || 'trainer';
  return `${host}-${processId}`;
}
