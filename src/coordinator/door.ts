/**
 * The listening socket of a coordinator: HTTP, or HTTP over TLS with a word for those who come without TLS. What is
 * said over it is server.ts' business. SHELL.
 */
import { constants } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import type { PemTexts } from '../files/pem.ts';
import { cannotListen } from './listen-error.ts';
import type { Turnstile } from './turnstile.ts';

export interface DoorOptions {
  readonly host: string;
  readonly port: number;
  /** null: no TLS. With `ca`, peers must show a certificate that it has signed. */
  readonly tls: PemTexts | null;
  /** From the opening of a socket until TLS is set up and the head of its request is there. */
  readonly handshakeTimeoutMs: number;
  /** Sockets, whatever comes over them; more are closed at once. */
  readonly maxSockets: number;
  /** Counts sockets by address, and where TLS is spoken its handshakes: those who are too many are closed at once. */
  readonly turnstile: Turnstile;
  readonly onRequest: (door: Door, request: IncomingMessage, response: ServerResponse) => void;
  readonly onUpgrade: (door: Door, request: IncomingMessage, socket: Duplex, head: Buffer) => void;
  /** The listening socket failed. */
  readonly onError: (error: Error) => void;
}

/** For the HTTP request that becomes a WebSocket; Node wants it below the 5 minutes of a whole request. */
const MAX_HEADERS_TIMEOUT_MS = 60_000;
/** How long one who is refused before there is a WebSocket may take to read why. */
export const REFUSAL_TIME_MS = 2_000;
/** First byte of every TLS connection: the record type "handshake". */
const TLS_HANDSHAKE = 0x16;

const TLS_REQUIRED = 'this coordinator speaks only TLS: use wss://\n';
const TLS_REQUIRED_ANSWER =
  'HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.2\r\nConnection: close\r\nContent-Type: text/plain\r\n' +
  `Content-Length: ${TLS_REQUIRED.length}\r\n\r\n${TLS_REQUIRED}`;

export class Door {
  readonly #options: DoorOptions;
  readonly #server: Server;
  readonly #tls: TlsServer | null;
  /** Of TLS connections, by the other end's address: theirs are the bytes that travel. */
  readonly #wires = new Map<string, Socket>();

  private constructor(options: DoorOptions) {
    this.#options = options;
    const { handshakeTimeoutMs, tls } = options;
    const timers = {
      headersTimeout: Math.min(handshakeTimeoutMs, MAX_HEADERS_TIMEOUT_MS),
      connectionsCheckingInterval: 5_000,
    };
    this.#tls =
      tls === null
        ? null
        : createTlsServer({ ...timers, ...secureOptions(tls), handshakeTimeout: handshakeTimeoutMs });
    this.#server = this.#tls ?? createServer(timers);
    this.#server.maxConnections = options.maxSockets;
    this.#server.on('request', (request, response) => options.onRequest(this, request, response));
    this.#server.on('upgrade', (request, socket, head) => options.onUpgrade(this, request, socket, head));
    this.#server.on('clientError', refuseClient);
    if (this.#tls !== null) this.#sortConnections(this.#tls);
    else this.#server.on('connection', (socket: Socket) => void this.#admit(socket));
  }

  /** @throws OperatingError if the address cannot be used, saying what to do */
  static async open(options: DoorOptions): Promise<Door> {
    const door = new Door(options);
    await door.#listen();
    return door;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo | null)?.port ?? this.#options.port;
  }

  /** `wss://host:port/` as bound, or `ws:`. */
  get url(): string {
    const { host } = this.#options;
    return `${this.#tls === null ? 'ws' : 'wss'}://${host.includes(':') ? `[${host}]` : host}:${this.port}/`;
  }

  /** Whether handshakes were counted before TLS, the costly part of them. */
  get isSecure(): boolean {
    return this.#tls !== null;
  }

  /** Whether the peer has shown the certificate that is asked for; true where none is. */
  isTrusted(request: IncomingMessage): boolean {
    return this.#options.tls?.ca === undefined || (request.socket as TLSSocket).authorized;
  }

  /** The socket whose bytes are those on the wire. */
  wireOf(socket: Socket): Socket {
    return this.#wires.get(endOf(socket)) ?? socket;
  }

  /** For connections from here on; those that are open stay as they are. @throws if they cannot be used */
  renew(tls: PemTexts): void {
    this.#tls?.setSecureContext(secureOptions(tls));
  }

  /** Takes no more connections; resolves when all that were upgraded are gone, and ends the others. */
  close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    return closed;
  }

  /** Ends connections that were not upgraded. */
  closeRest(): void {
    this.#server.closeAllConnections();
  }

  #listen(): Promise<void> {
    const { host, port, onError } = this.#options;
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error: NodeJS.ErrnoException) => reject(cannotListen(host, port, error)));
      this.#server.listen(port, host, () => {
        this.#server.removeAllListeners('error');
        this.#server.on('error', onError);
        resolve();
      });
    });
  }

  /** Counts a socket of its address; false: there were too many, and it is closed. */
  #admit(socket: Socket): boolean {
    const { turnstile } = this.#options;
    const address = addressOf(socket);
    if (!turnstile.arrive(address)) {
      socket.on('error', ignore);
      socket.destroy();
      return false;
    }
    socket.once('close', () => turnstile.depart(address));
    return true;
  }

  /** Looks at the first byte of each connection before TLS does. */
  #sortConnections(tls: TlsServer): void {
    const speakers = tls.listeners('connection') as ((socket: Socket) => void)[];
    tls.removeAllListeners('connection');
    tls.on('tlsClientError', ignore); // the socket is destroyed already
    tls.on('connection', (socket: Socket) => {
      if (!this.#admit(socket)) return;
      const giveUp = (): void => void socket.destroy();
      socket.on('error', ignore);
      socket.setTimeout(this.#options.handshakeTimeoutMs, giveUp);
      socket.once('data', (first: Buffer) => {
        socket.off('timeout', giveUp);
        if (first[0] !== TLS_HANDSHAKE) return refusePlain(socket);
        if (this.#options.turnstile.knock(addressOf(socket)) !== null) return void socket.destroy();
        socket.setTimeout(0);
        this.#remember(socket);
        socket.pause();
        socket.unshift(first);
        for (const speak of speakers) speak.call(tls, socket);
        process.nextTick(() => socket.resume());
      });
    });
  }

  #remember(socket: Socket): void {
    const end = endOf(socket);
    this.#wires.set(end, socket);
    socket.once('close', () => this.#wires.delete(end));
  }
}

function secureOptions({ cert, key, ca }: PemTexts) {
  return {
    cert,
    key,
    ca,
    minVersion: 'TLSv1.2',
    // Who shows no good certificate is told so with a close code (server.ts), not with a broken connection.
    requestCert: ca !== undefined,
    rejectUnauthorized: false,
    // A resumed session would not be checked against a CA that has changed.
    secureOptions: constants.SSL_OP_NO_TICKET,
  } as const;
}

/** A message that is no HTTP; that it is TLS can be told in a way that the other side understands. */
function refuseClient(error: Error & { rawPacket?: Buffer }, socket: Duplex): void {
  if (error.rawPacket?.[0] === TLS_HANDSHAKE && socket.writable)
    socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  else socket.destroy();
}

function refusePlain(socket: Socket): void {
  const giveUp = setTimeout(() => socket.destroy(), REFUSAL_TIME_MS);
  socket.once('close', () => clearTimeout(giveUp));
  socket.resume();
  socket.end(TLS_REQUIRED_ANSWER);
}

/** Of the other end, without its port. */
export function addressOf({ remoteAddress }: Socket): string {
  return remoteAddress ?? '?';
}

function endOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

function ignore(): void {
  return;
}
