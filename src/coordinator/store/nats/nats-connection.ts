/** A connection to NATS with all that a run needs of it, or an error that says what is missing. SHELL. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { JetStreamApiError, jetstreamManager, type JetStreamManager } from '@nats-io/jetstream';
import {
  connect,
  credsAuthenticator,
  errors,
  type ConnectionOptions,
  type NatsConnection,
} from '@nats-io/transport-node';
import { OperatingError } from '../../../errors.ts';
import { explaining } from '../../../files/system-error.ts';
import { isNotEnabled } from './nats-errors.ts';

/** The first with all that is used: consumers with names, direct answers switched off one by one. */
const LEAST_VERSION = [2, 9, 0] as const;
/** Attempts at the first connection, and the time between them. */
const ATTEMPTS = 10;
const ATTEMPT_GAP_MS = 1_000;
const CONNECT_TIMEOUT_MS = 2_000;
/**
 * For a small answer of JetStream. A stream without a leader says nothing, so what was asked a moment before there is one
 * again costs this time.
 */
export const API_TIMEOUT_MS = 2_000;
const RECONNECT_GAP_MS = 250;
/** A server that does not answer a ping twice is left for another. */
const PING_INTERVAL_MS = 2_000;
/** JetStream of a server that has just been started, or of a cluster without a leader. */
const JETSTREAM_ATTEMPTS = 10;

/** Who we are to NATS; all empty: nobody in particular. Secrets: never log them. */
export interface NatsCredentials {
  readonly token: string;
  readonly user: string;
  readonly password: string;
  /** A file as `nsc` writes them. */
  readonly credsPath: string;
}

/** How NATS is reached. */
export interface NatsAddress {
  /** `nats://host:port` or `tls://host:port`, all with the same scheme; without credentials. */
  readonly servers: readonly string[];
  /** PEM file of an authority to trust; undefined: those of the system. */
  readonly ca?: string | undefined;
}

/** How often to try before it counts as unreachable. */
export interface ConnectPatience {
  readonly attempts: number;
  readonly gapMs: number;
}

/** A connection that stays: it finds its way back by itself, to any of the servers. */
export interface NatsLink {
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  /** For messages. */
  readonly where: string;
  /** One more of the same kind, tried once. Whoever asks closes it. */
  readonly openAnother: () => Promise<NatsConnection>;
}

/** @throws OperatingError that says which: unreachable, credentials, TLS, too old, without JetStream */
export async function connectNats(
  address: NatsAddress,
  credentials: NatsCredentials,
  patience: ConnectPatience = { attempts: ATTEMPTS, gapMs: ATTEMPT_GAP_MS },
): Promise<NatsLink> {
  const where = address.servers.join(',');
  const options = await optionsOf(address, credentials);
  const connection = await connectPatiently(options, where, credentials, patience);
  try {
    checkVersion(connection, where);
    const manager = await managerOf(connection, where, patience);
    return { connection, where, manager, openAnother: () => connect(options) };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/** Whether the server of this connection answers a ping in time. */
export async function answersWithin(connection: NatsConnection, timeMs: number): Promise<boolean> {
  const enough = new AbortController();
  try {
    const answered = connection.rtt().then(
      () => true,
      () => false,
    );
    return await Promise.race([answered, sleep(timeMs, false, { signal: enough.signal })]);
  } finally {
    enough.abort();
  }
}

async function optionsOf(
  { servers, ca }: NatsAddress,
  credentials: NatsCredentials,
): Promise<ConnectionOptions> {
  const { token, user, password, credsPath } = credentials;
  const isSecure = servers.some((server) => server.startsWith('tls://'));
  const authority = ca === undefined ? {} : { ca: await explaining(`read ${ca}`, readFile(ca, 'utf8')) };
  const creds = credsPath === '' ? null : await explaining(`read ${credsPath}`, readFile(credsPath));
  return {
    servers: [...servers],
    name: 'galore-swarm',
    timeout: CONNECT_TIMEOUT_MS,
    pingInterval: PING_INTERVAL_MS,
    maxPingOut: 2,
    maxReconnectAttempts: -1,
    reconnectTimeWait: RECONNECT_GAP_MS,
    ...(isSecure || ca !== undefined ? { tls: authority } : {}),
    ...(token === '' ? {} : { token }),
    ...(user === '' ? {} : { user, pass: password }),
    ...(creds === null ? {} : { authenticator: credsAuthenticator(creds) }),
  };
}

async function connectPatiently(
  options: ConnectionOptions,
  where: string,
  credentials: NatsCredentials,
  { attempts, gapMs }: ConnectPatience,
): Promise<NatsConnection> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await connect(options);
    } catch (error) {
      const fault = lastingFault(error, where, credentials);
      if (fault !== null) throw fault;
      if (attempt < attempts) {
        await sleep(gapMs);
        continue;
      }
      const text = error instanceof Error ? error.message : String(error);
      const told = `NATS cannot be reached at ${where} (tried ${attempts} times): ${text}`;
      throw new OperatingError(`${told}; start it, or correct state in run.yaml`, { cause: error });
    }
  }
}

/** Null: it may pass. */
function lastingFault(error: unknown, where: string, credentials: NatsCredentials): OperatingError | null {
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError) {
    const shown = shownWith(credentials);
    const advice =
      'set GALORE_NATS_TOKEN, or GALORE_NATS_USER and GALORE_NATS_PASSWORD, or GALORE_NATS_CREDS';
    return new OperatingError(`NATS at ${where} does not let us in (${shown}); ${advice}`, { cause: error });
  }
  const code = (error as { code?: unknown }).code ?? (error as { cause?: { code?: unknown } }).cause?.code;
  const isTls =
    typeof code === 'string' && /^(ERR_TLS|ERR_SSL|CERT_|UNABLE_TO|SELF_SIGNED|DEPTH_ZERO)/.test(code);
  if (isTls || /certificate/i.test(text)) {
    const told = `the certificate of NATS at ${where} is not to be trusted (${text})`;
    return new OperatingError(`${told}; name its authority in state.ca`, { cause: error });
  }
  if (error instanceof errors.InvalidArgumentError || /does not support 'tls'/.test(text)) {
    const told = `NATS at ${where} cannot be used as asked: ${text}`;
    return new OperatingError(`${told}; tls:// is for servers with TLS, nats:// for those without`, {
      cause: error,
    });
  }
  return null;
}

/** Says what was shown, without showing it. */
function shownWith({ token, user, credsPath }: NatsCredentials): string {
  if (credsPath !== '') return `with the credentials of ${credsPath}`;
  if (user !== '') return `as user ${user}`;
  return token === '' ? 'without credentials' : 'with a token';
}

function checkVersion({ info }: NatsConnection, where: string): void {
  const version = info?.version ?? 'unknown';
  const numbers = version.split(/[.-]/).slice(0, 3).map(Number);
  const difference = LEAST_VERSION.map((least, i) => (numbers[i] ?? 0) - least).find((by) => by !== 0) ?? 0;
  if (difference >= 0) return;
  const least = LEAST_VERSION.join('.');
  throw new OperatingError(`NATS at ${where} is too old: it is ${version}, ${least} or newer is needed`);
}

async function managerOf(
  connection: NatsConnection,
  where: string,
  { attempts, gapMs }: ConnectPatience,
): Promise<JetStreamManager> {
  const without = 'start it with -js, or give the account JetStream';
  if (connection.info?.jetstream !== true) {
    // Of a cluster some servers may be without; others answer for them.
    attempts = 1;
  }
  for (let attempt = 1; ; attempt++) {
    try {
      return await jetstreamManager(connection, { timeout: API_TIMEOUT_MS });
    } catch (error) {
      const isOff =
        isNotEnabled(error) ||
        (error instanceof JetStreamApiError && (error.code === 10039 || error.code === 10076));
      if (attempt < Math.min(attempts, JETSTREAM_ATTEMPTS)) {
        await sleep(gapMs);
        continue;
      }
      const text = error instanceof Error ? error.message : String(error);
      if (isOff)
        throw new OperatingError(`NATS at ${where} runs without JetStream; ${without}`, { cause: error });
      throw new OperatingError(`JetStream at ${where} does not answer: ${text}`, { cause: error });
    }
  }
}
