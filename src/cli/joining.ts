/**
 * What `galore trainer` and `galore gateway` have in common: both join a run as a trainer does, with a token and
 * certificates, stay until it ends, and leave it when they are asked to. SHELL.
 */
import { resolve } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { readPemFiles, type PemPaths } from '../files/pem.ts';
import { printable, type Logger } from '../log.ts';
import { isLoopback } from '../loopback.ts';
import { splitUrls } from '../trainer/addresses.ts';
import type { CliContext } from './context.ts';
import type { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { onInterrupt } from './interrupts.ts';
import { joinToken, type TokenFlags } from './join-token.ts';
import type { OutputOptions } from './options.ts';

export interface JoinFlags extends OutputOptions, TokenFlags {
  readonly id?: string;
  readonly run: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly quiet?: true;
}

/** Adds --token-file, --token, --ca, --cert and --key. */
export function addCredentialOptions(
  command: Command,
  texts: { readonly token: string; readonly certificate: string },
): Command {
  return command
    .option('--token-file <file>', `file that holds ${texts.token}, and nothing else`)
    .option(
      '--token <token>',
      'join token; every user of this machine can see it: GALORE_TOKEN or --token-file are better',
    )
    .option('--ca <file>', 'PEM file of the authority to trust, in place of those of this system')
    .option('--cert <file>', `PEM file of ${texts.certificate}`)
    .option('--key <file>', 'PEM file of its private key');
}

/** What is shown at the coordinator's door; says so when others on the way can read it. @throws ConfigError, DataError, OperatingError */
export async function credentialsOf(
  context: CliContext,
  url: string,
  flags: JoinFlags,
  logger: Logger,
): Promise<{ readonly token: string; readonly tls: PemPaths }> {
  const token = await joinToken(context, flags, logger);
  const tls = await certificatesFor(url, context, flags);
  if (token !== '' && isOpenWire(url)) {
    logger.warn('token.exposed', {}, 'the token travels unencrypted: anyone on the way can read and use it');
  }
  return { token, tls };
}

/** Until disposed: the first Ctrl-C leaves the run in good order, the second ends at once. */
export function leaveOnInterrupt(
  context: CliContext,
  display: Display,
  tellAndLeave: (text: string) => void,
): Disposable {
  return onInterrupt(context.signals, {
    first: () => tellAndLeave('leaving the run; again to quit at once'),
    again: () => {
      display.close();
      context.exitNow(EXIT_CODES.INTERRUPTED);
    },
  });
}

/** Says how it ended; the exit code. */
export function concludeJoin(
  display: Display,
  { quiet }: JoinFlags,
  { code, reason }: { readonly code: number; readonly reason: string },
): number {
  display.close();
  if (code !== EXIT_CODES.OK) display.error(`error: ${printable(reason)}\n`);
  else if (!quiet) display.line(printable(reason));
  return code;
}

/** One or several addresses, with commas between them. @throws InvalidArgumentError */
export function webSocketUrls(text: string): string {
  return splitUrls(text).map(webSocketUrl).join(',');
}

const TRAINER_NAME = /^[A-Za-z0-9._-]{1,64}$/;

/** @throws InvalidArgumentError */
export function trainerName(text: string): string {
  if (TRAINER_NAME.test(text)) return text;
  throw new InvalidArgumentError('It takes 1 to 64 letters, digits, ".", "_" or "-".');
}

/** The name of this machine with an ending, in the letters a trainer id may have. */
export function nameHere(hostName: string, ending: string): string {
  const host = hostName.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, 48) || 'trainer';
  return `${host}-${ending}`;
}

/** The files for TLS, which are there and go together. @throws ConfigError, DataError */
async function certificatesFor(
  url: string,
  context: CliContext,
  { ca, cert, key }: JoinFlags,
): Promise<PemPaths> {
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

function isOpenWire(url: string): boolean {
  return splitUrls(url).some((each) => !isTls(each) && !isLoopback(new URL(each).hostname));
}

function webSocketUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol === 'ws:' || url?.protocol === 'wss:') return text;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') {
    throw new InvalidArgumentError(`Write ${text.replace(/^http/, 'ws')}.`);
  }
  throw new InvalidArgumentError('It must begin with ws:// or wss://, such as ws://127.0.0.1:29400.');
}
