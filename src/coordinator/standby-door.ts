/**
 * The door of a coordinator that does not lead its run: whoever wants to join is told where to go, and nothing of the
 * run. SHELL.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { RunConfig } from '../config/schema.ts';
import type { PemTexts } from '../files/pem.ts';
import type { Logger } from '../log.ts';
import { LEADER_HEADER, NO_LEADER } from '../protocol/standby.ts';
import { pathOf } from '../view/paths.ts';
import { probeAnswer, type PlainAnswer } from '../view/probes.ts';
import { addressOf, Door } from './door.ts';
import { refuseUpgrade } from './server.ts';
import { Turnstile } from './turnstile.ts';

export interface StandbyDoorOptions {
  readonly coordinator: RunConfig['coordinator'];
  readonly tls: PemTexts | null;
  /** Where trainers reach the leader; null: nobody leads, or it is not known. */
  readonly leaderUrl: () => string | null;
  readonly logger: Logger;
}

/** Sockets at once: each is answered and closed. */
const MAX_SOCKETS = 256;
const NOT_FOUND: PlainAnswer = { status: 404, text: 'not found' };
/** For Prometheus; as in run-monitor.ts. */
const NOT_LEADING =
  '# HELP galore_leading 1 where the run is led\n# TYPE galore_leading gauge\ngalore_leading 0';

export class StandbyDoor {
  readonly #door: Door;

  private constructor(door: Door) {
    this.#door = door;
  }

  /** @throws OperatingError if the address cannot be used, saying what to do */
  static async open(options: StandbyDoorOptions): Promise<StandbyDoor> {
    const { host, port, handshake_timeout_ms: handshakeTimeoutMs, limits } = options.coordinator;
    const turnstile = new Turnstile(
      {
        maxConnectionsPerAddress: limits.connections_per_address,
        maxHandshakesPerSecond: limits.handshakes_per_second,
      },
      () => performance.now(),
    );
    const leader = (): string => options.leaderUrl() ?? NO_LEADER;
    const door = await Door.open({
      ...{ host, port, tls: options.tls, handshakeTimeoutMs, turnstile },
      maxSockets: MAX_SOCKETS,
      onRequest: (_door, request, response) => answer(request, response, leader()),
      onUpgrade: (opened, request, socket) => refuse(opened, turnstile, request, socket, leader()),
      onError: (error) => options.logger.error('server.failed', { error }, 'the listening socket failed'),
    });
    return new StandbyDoor(door);
  }

  get url(): string {
    return this.#door.url;
  }

  get port(): number {
    return this.#door.port;
  }

  /** Resolves when the address is free. */
  async close(): Promise<void> {
    const closed = this.#door.close();
    this.#door.closeRest();
    await closed;
  }
}

/** Anybody may know this much: who leads, and that it is not us. */
function answer(request: IncomingMessage, response: ServerResponse, leader: string): void {
  const path = pathOf(request);
  const { status, text } = probeAnswer(path, standbyText(leader)) ?? pageAnswer(path, leader) ?? NOT_FOUND;
  const more = { [LEADER_HEADER]: leader, 'cache-control': 'no-store' };
  // The page of the run is here as soon as we lead.
  const again = path === '/' ? { refresh: '5' } : {};
  response.writeHead(status, { 'content-type': 'text/plain', ...more, ...again }).end(`${text}\n`);
}

/** In place of the page and the metrics of a run. Null: another path. */
function pageAnswer(path: string, leader: string): PlainAnswer | null {
  if (path === '/metrics') return { status: 200, text: NOT_LEADING };
  if (path !== '/') return null;
  const where = leader === NO_LEADER ? '' : `; its page: ${leader.replace(/^ws/, 'http')}`;
  return { status: 503, text: `${standbyText(leader)}${where}` };
}

function refuse(
  door: Door,
  turnstile: Turnstile,
  request: IncomingMessage,
  socket: Duplex,
  leader: string,
): void {
  const crowd = door.isSecure ? null : turnstile.knock(addressOf(request.socket));
  if (crowd !== null) return refuseUpgrade(socket, { status: 429, text: crowd });
  if (pathOf(request) !== '/') return refuseUpgrade(socket, { status: 404, text: 'not found' });
  refuseUpgrade(socket, { status: 503, text: standbyText(leader) }, { [LEADER_HEADER]: leader });
}

function standbyText(leader: string): string {
  return leader === NO_LEADER ? 'a standby; nobody leads the run' : `a standby; ${leader} leads the run`;
}
