/** `galore trainer`: joins a run from this machine. */
import { mkdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import type { DeviceWish } from '../device-name.ts';
import { ConfigError } from '../errors.ts';
import { readPemFiles, type PemPaths } from '../files/pem.ts';
import { explaining } from '../files/system-error.ts';
import { createLogger, printable } from '../log.ts';
import { isLoopback } from '../loopback.ts';
import { splitUrls } from '../trainer/addresses.ts';
import type { AuditRow } from '../trainer/audit.ts';
import type { Precision } from '../trainer/engine/device.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { joinToken } from './join-token.ts';
import { onInterrupt } from './interrupts.ts';
import { addSiteOptions, auditLines, siteOf, type SiteFlags } from './site-flags.ts';
import {
  addOutputOptions,
  deviceOption,
  precisionOption,
  wholeNumber,
  type OutputOptions,
} from './options.ts';

interface TrainerFlags extends OutputOptions, SiteFlags {
  readonly id?: string;
  readonly run: string;
  readonly token?: string;
  readonly tokenFile?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly state?: string;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly precision: Precision;
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
    .argument(
      '<url>',
      'where the coordinator listens: ws://HOST:PORT or wss://HOST; several, with commas between them, where there are standbys',
      webSocketUrls,
    )
    .summary('join a run from this machine')
    .description(
      'Joins a run: receives the model and its state, computes gradients, sends them compressed.\n' +
        'It reconnects by itself, to whichever of its addresses leads the run, and leaves when the run ends.\n' +
        'Of a host name with several addresses in DNS each is tried.',
    )
    .option('--id <name>', 'name of this trainer; default: host name and process number', trainerName)
    .option('--run <name>', 'take part only in the run of this name', '')
    .option('--token-file <file>', 'file that holds the join token, and nothing else')
    .option(
      '--token <token>',
      'join token; every user of this machine can see it: GALORE_TOKEN or --token-file are better',
    )
    .option('--ca <file>', 'PEM file of the authority to trust, in place of those of this system')
    .option('--cert <file>', 'PEM file of the certificate of this trainer, where one is asked for')
    .option('--key <file>', 'PEM file of its private key')
    .option(
      '--state <dir>',
      'folder for what this trainer keeps for itself (moments of local steps, error feedback): started again, it goes on with it; needs --id',
    )
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, MAX_THREADS))
    .addOption(deviceOption())
    .addOption(precisionOption())
    .option('--quiet', 'no status line');
  addSiteOptions(command);
  addOutputOptions(command, 'info').addHelpText(
    'after',
    `
Examples:
  galore trainer ws://192.168.1.20:29400
  galore trainer wss://train.example.org --token-file token.txt --id garage-pc --threads 8
  galore trainer wss://a.example.org,wss://b.example.org --token-file token.txt
  GALORE_TOKEN=… galore trainer wss://192.168.1.20:29400 --ca cert.pem
  galore trainer wss://train.example.org --id north --data ./private.jsonl --state ./state --audit

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
  const token = await joinToken(context, flags, logger);
  const tls = await certificatesFor(url, context, flags);
  const stateDir = await stateDirFor(context, flags);
  const site = siteOf(context, flags, display);
  const onAudit = (rows: readonly AuditRow[], socketBytes: number): void => {
    display.close();
    for (const line of auditLines(rows, socketBytes)) display.line(line);
  };
  if (token !== '' && isOpenWire(url)) {
    logger.warn('token.exposed', {}, 'the token travels unencrypted: anyone on the way can read and use it');
  }
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
      token,
      tls,
      ...(stateDir === undefined ? {} : { stateDir }),
      ...(site === undefined ? {} : { site }),
      ...(flags.audit === undefined ? {} : { onAudit }),
      threads: flags.threads ?? context.cores,
      device,
      precision: flags.precision,
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

/** The folder for what the trainer keeps. @throws ConfigError, OperatingError */
async function stateDirFor(context: CliContext, { state, id }: TrainerFlags): Promise<string | undefined> {
  if (state === undefined) return undefined;
  if (id === undefined) {
    throw new ConfigError('--state needs --id: by it a trainer that is started again finds what it has kept');
  }
  const path = resolve(context.workingDir, state);
  await explaining(`create ${path}`, mkdir(path, { recursive: true, mode: 0o700 }));
  return path;
}

/** The files for TLS, which are there and go together. @throws ConfigError, DataError */
export async function certificatesFor(
  url: string,
  context: CliContext,
  flags: Pick<TrainerFlags, 'ca' | 'cert' | 'key'>,
): Promise<PemPaths> {
  const { ca, cert, key } = flags;
  const given = Object.entries({ ca, cert, key }).filter(([, path]) => path !== undefined);
  if (given.length > 0 && !splitUrls(url).some(isTls)) {
    throw new ConfigError(`--${given[0]![0]} is for wss:// addresses; ${url} is without TLS`);
  }
  if ((cert === undefined) !== (key === undefined)) {
    throw new ConfigError(
      '--cert and --key go together: the certificate of this trainer and its private key',
    );
  }
  const paths = Object.fromEntries(
    given.map(([name, path]) => [name, resolve(context.workingDir, path!)]),
  ) as PemPaths;
  await readPemFiles(paths);
  return paths;
}

function isTls(url: string): boolean {
  return new URL(url).protocol === 'wss:';
}

export function isOpenWire(url: string): boolean {
  return splitUrls(url).some((each) => !isTls(each) && !isLoopback(new URL(each).hostname));
}

export function webSocketUrls(text: string): string {
  return splitUrls(text).map(webSocketUrl).join(',');
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

export function trainerName(text: string): string {
  if (TRAINER_NAME.test(text)) return text;
  throw new InvalidArgumentError('It takes 1 to 64 letters, digits, ".", "_" or "-".');
}

/** A name of this process on this machine, in the letters a trainer id may have. */
export function defaultTrainerId(hostName: string, processId: number): string {
  const host = hostName.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, 48) || 'trainer';
  return `${host}-${processId}`;
}
