/** `galore trainer`: joins a run from this machine. */
import { mkdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { DeviceWish } from '../device-name.ts';
import { ConfigError } from '../errors.ts';
import { explaining } from '../files/system-error.ts';
import { printable } from '../log.ts';
import type { AuditRow } from '../trainer/audit.ts';
import type { Precision } from '../trainer/engine/device.ts';
import { commandLogger } from './command-logger.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import {
  addCredentialOptions,
  concludeJoin,
  credentialsOf,
  leaveOnInterrupt,
  nameHere,
  trainerName,
  webSocketUrls,
  type JoinFlags,
} from './joining.ts';
import { addSiteOptions, auditLines, siteOf, type SiteFlags } from './site-flags.ts';
import { addOutputOptions, deviceOption, precisionOption, wholeNumber } from './options.ts';

interface TrainerFlags extends JoinFlags, SiteFlags {
  readonly state?: string;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly precision: Precision;
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
    .option('--run <name>', 'take part only in the run of this name', '');
  addCredentialOptions(command, {
    token: 'the join token',
    certificate: 'the certificate of this trainer, where one is asked for',
  })
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
  const logger = commandLogger(context, display, flags, flags.logJson ? { trainer: trainerId } : {});
  const { token, tls } = await credentialsOf(context, url, flags, logger);
  const stateDir = await stateDirFor(context, flags);
  const site = siteOf(context, flags, display);
  const onAudit = (rows: readonly AuditRow[], socketBytes: number): void => {
    display.close();
    for (const line of auditLines(rows, socketBytes)) display.line(line);
  };
  const leaving = new AbortController();
  using _ = leaveOnInterrupt(context, display, (text) => {
    logger.info('trainer.leaving', {}, text);
    leaving.abort();
  });
  context.onParentGone?.(() => {
    leaving.abort();
    context.after(ORPHAN_TIME_MS, () => context.exitNow(EXIT_CODES.CANNOT_CONTINUE));
  });
  try {
    const [device] = await context.services.ensureEngine(flags.device);
    const end = await context.services.runTrainer({
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
    return concludeJoin(display, flags, end);
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

/** A name of this process on this machine, in the letters a trainer id may have. */
export function defaultTrainerId(hostName: string, processId: number): string {
  return nameHere(hostName, String(processId));
}
