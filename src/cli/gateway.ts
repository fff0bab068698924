/** `galore gateway`: takes trainers near it and is one trainer to a coordinator far away. */
import { resolve } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { readPemFiles } from '../files/pem.ts';
import { printable } from '../log.ts';
import { commandLogger } from './command-logger.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
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
import { addOutputOptions } from './options.ts';

interface GatewayFlags extends JoinFlags {
  readonly listen: Address;
  readonly dir?: string;
  readonly tokens?: string;
  readonly listenCert?: string;
  readonly listenKey?: string;
  readonly listenCa?: string;
  readonly insecure?: true;
}

interface Address {
  readonly host: string;
  readonly port: number;
}

const DEFAULT_ADDRESS: Address = { host: '127.0.0.1', port: 29_401 };

/** Adds the command; `finish` takes its exit code. */
export function registerGatewayCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const command = program
    .command('gateway')
    .argument(
      '<url>',
      'where the coordinator listens: ws://HOST:PORT or wss://HOST; with standbys all of them, with commas between',
      webSocketUrls,
    )
    .summary('join trainers that are near each other to a run far away')
    .description(
      'Takes trainers near it and sends the coordinator one sum of what they send; passes what comes from it on to all.\n' +
        'It needs no tensor library, and must be of the same version as the coordinator.',
    )
    .option(
      '--listen <host:port>',
      `where its trainers connect; default: ${DEFAULT_ADDRESS.host}:${DEFAULT_ADDRESS.port}`,
      address,
      DEFAULT_ADDRESS,
    )
    .option('--id <name>', 'name of this gateway among the trainers; default: host name', trainerName)
    .option('--run <name>', 'take part only in the run of this name', '')
    .option('--dir <folder>', 'what it keeps of the run for those who join; default: gateways/NAME');
  addCredentialOptions(command, {
    token: 'the join token for the coordinator',
    certificate: 'the certificate to show the coordinator, where it asks for one',
  })
    .option(
      '--tokens <file.json>',
      'tokens of its own trainers (galore token create FILE.json --role trainer)',
    )
    .option('--listen-cert <file>', 'PEM file of the certificate of its own door: speak TLS there')
    .option('--listen-key <file>', 'PEM file of its private key')
    .option('--listen-ca <file>', 'ask its trainers for a certificate that this authority has signed')
    .option('--insecure', 'listen beyond this machine without join tokens or without TLS')
    .option('--quiet', 'no status line');
  addOutputOptions(command, 'info').addHelpText(
    'after',
    `
Examples:
  galore gateway wss://train.example.org --token-file token.txt
  galore trainer ws://127.0.0.1:29401                             on the same machine
  galore gateway wss://train.example.org --token-file token.txt --listen 10.0.0.7:29401 \\
    --tokens site.json --listen-cert cert.pem --listen-key key.pem
  galore trainer wss://10.0.0.7:29401 --ca cert.pem --token-file t on the others nearby

Ctrl-C leaves the run in good order; a second Ctrl-C ends at once.`,
  );
  command.action(async (url: string, flags: GatewayFlags) => finish(await passOn(context, url, flags)));
}

async function passOn(context: CliContext, url: string, flags: GatewayFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.quiet);
  const gatewayId = flags.id ?? defaultGatewayId(context.hostName);
  const logger = commandLogger(context, display, flags, flags.logJson ? { gateway: gatewayId } : {});
  const { token, tls } = await credentialsOf(context, url, flags, logger);
  const doorTls = await doorCertificates(context, flags);
  const path = (file: string): string => resolve(context.workingDir, file);
  const gateway = await context.services.startGateway({
    ...{ url, gatewayId, runName: flags.run, token, tls, listen: flags.listen, logger },
    ...(doorTls === undefined ? {} : { doorTls }),
    ...(flags.tokens === undefined ? {} : { tokensPath: path(flags.tokens) }),
    isInsecure: flags.insecure === true,
    dir: path(flags.dir ?? `gateways/${gatewayId}`),
    onActivity: (text) => display.status(`${gatewayId} · ${printable(text)}`),
  });
  using _ = leaveOnInterrupt(context, display, (text) => {
    logger.info('gateway.leaving', {}, text);
    gateway.stop();
  });
  try {
    const join = `${context.commandName} trainer ${gateway.url}`;
    display.line(`trainers join here: ${join}${gateway.asksForTokens ? ' --token-file FILE' : ''}`);
    return concludeJoin(display, flags, await gateway.finished);
  } finally {
    display.close();
  }
}

/** Of its own door. @throws ConfigError, DataError */
async function doorCertificates(
  context: CliContext,
  { listenCert, listenKey, listenCa }: GatewayFlags,
): Promise<{ readonly cert: string; readonly key: string; readonly ca?: string } | undefined> {
  if (listenCert === undefined && listenKey === undefined && listenCa === undefined) return undefined;
  if (listenCert === undefined || listenKey === undefined) {
    throw new ConfigError('--listen-cert and --listen-key go together; --listen-ca needs both');
  }
  const path = (file: string): string => resolve(context.workingDir, file);
  const tls = { cert: path(listenCert), key: path(listenKey), ...(listenCa && { ca: path(listenCa) }) };
  await readPemFiles(tls);
  return tls;
}

function address(text: string): Address {
  const url = URL.canParse(`ws://${text}`) ? new URL(`ws://${text}`) : null;
  // A URL leaves the port out that is usual for it.
  const port = /:(\d{1,5})$/.exec(text)?.[1];
  if (url === null || url.pathname !== '/' || port === undefined || Number(port) > 65_535) {
    throw new InvalidArgumentError('It must be HOST:PORT, such as 127.0.0.1:29401 or [::1]:29401.');
  }
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(port) };
}

/** The same on every start, so that it is known again. */
function defaultGatewayId(hostName: string): string {
  return nameHere(hostName, 'gateway');
}
