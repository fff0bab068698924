/**
 * The coordinator's server: sockets that were upgraded at its doors become Connections. It checks frames,
 * the first message and the pulse of each; what messages mean is its handlers' business.
 */
import { STATUS_CODES, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import { ProtocolError } from '../errors.ts';
import type { PemTexts } from '../files/pem.ts';
import type { Logger } from '../log.ts';
import { protocolError } from '../protocol/checks.ts';
import { CLOSE_CODES, closeReasonOf, type CloseReason } from '../protocol/close-codes.ts';
import { decodeEnvelope } from '../protocol/envelope.ts';
import { MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES } from '../protocol/limits.ts';
import type { GoodbyeMessage, Message } from '../protocol/messages.ts';
import type { Connection } from './connection.ts';
import { addressOf, Door, REFUSAL_TIME_MS } from './door.ts';
import { MAX_BUFFERED_BYTES, SocketConnection } from './socket-connection.ts';
import { Turnstile } from './turnstile.ts';
import { LIVE_PATH, pathOf, PROBE_PATHS } from '../view/paths.ts';

export type { Connection } from './connection.ts';

export interface ServerOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Speak TLS alone; with `ca`, to those alone whose certificate it has signed. Default: no TLS. */
  readonly tls?: PemTexts | null;
  /** Listen at a free port of 127.0.0.1, too, without TLS: for trainers of this machine. Default: no. */
  readonly hasLocalDoor?: boolean;
  /** WebSockets, admitted or not; more are refused with HTTP 503. Default 256. */
  readonly maxConnections?: number;
  /** Those from one address; more are refused with HTTP 429. Default 128. */
  readonly maxConnectionsPerAddress?: number;
  /** Handshakes, and other HTTP requests, from one address; more are refused with HTTP 429. Default 128. */
  readonly maxHandshakesPerSecond?: number;
  /** From the opening of a socket until `admit`. */
  readonly handshakeTimeoutMs: number;
  /** Between WebSocket pings. */
  readonly heartbeatIntervalMs: number;
  /** A connection on which no byte came for this long is closed with TIMEOUT. */
  readonly heartbeatTimeoutMs: number;
  /** What one connection may have queued in arrays and messages when more is added. Default 256 MiB. */
  readonly maxUnsentBytes?: number;
  /** Messages of one connection in one second; more is LIMIT_EXCEEDED. Default 10 000. */
  readonly maxMessagesPerSecond?: number;
  /** Between our close frame and the destruction of the socket. Default 2 000. */
  readonly closeGraceMs?: number;
  /** For closeAfterQueue. Default 30 000. */
  readonly drainTimeoutMs?: number;
  /** Monotonic milliseconds. Default performance.now. */
  readonly now?: () => number;
  readonly logger: Logger;
}

/** A message that reaches the handlers; Goodbye ends in onClose. */
export type ReceivedMessage = Exclude<Message, GoodbyeMessage>;

/**
 * Called one at a time, never from inside a call to a Connection. A handler may throw a ProtocolError
 * to close the connection it was called for; anything else it throws goes to onFatal.
 */
export interface ServerHandlers {
  /** A socket was upgraded; nothing is known of it yet. */
  onConnection?(connection: Connection): void;
  /**
   * A checked message. The first one of a connection is a Hello; until `admit` only Heartbeats follow
   * it, and no second Hello ever does. Bytes inside the message are views of `frame`.
   */
  onMessage(connection: Connection, message: ReceivedMessage, frame: Uint8Array): void;
  /**
   * Once for every connection, when its socket is gone: with the code and reason we closed it for, or
   * else those of its Goodbye or close frame; 1006 without any.
   */
  onClose(connection: Connection, code: number, reason: string): void;
  /** A frame was given to the socket of a connection (`down`), or came from it (`up`). Must not throw. */
  onFrame?(connection: Connection, direction: 'up' | 'down', frame: Uint8Array): void;
  /** A bug of ours: log it and end the process. */
  onFatal(error: unknown): void;
  /** Any HTTP request that is no upgrade; without it the answer is 404. */
  onRequest?(request: IncomingMessage, response: ServerResponse): void;
  /** A request for a WebSocket at LIVE_PATH, for those who look at the run; without it the answer is 404. */
  onLive?(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

/** What the server remembers of a connection besides the connection itself. */
interface Peer {
  readonly connection: SocketConnection;
  readonly handshakeTimer: NodeJS.Timeout;
  hasSaidHello: boolean;
  isAdmitted: boolean;
  heardBytes: number;
  heardAtMs: number;
  windowStartMs: number;
  windowMessages: number;
}

/** Sockets of a door beyond maxConnections: those that are not upgraded yet. */
const MAX_OTHER_SOCKETS = 64;

const NO_CERTIFICATE = 'this coordinator takes only those with a certificate of its own authority';

/**
 * A socket may hold what its connection has given it, and on top of it messages that overtake, which nobody counts.
 * A peer that leaves more of these unread does not read at all.
 */
const MAX_SOCKET_BYTES = MAX_BUFFERED_BYTES + MAX_FRAME_BYTES + 1024 * 1024;

const DEFAULTS = {
  tls: null,
  hasLocalDoor: false,
  maxConnections: 256,
  maxConnectionsPerAddress: 128,
  maxHandshakesPerSecond: 128,
  maxUnsentBytes: 256 * 1024 * 1024,
  maxMessagesPerSecond: 10_000,
  closeGraceMs: 2_000,
  drainTimeoutMs: 30_000,
  now: () => performance.now(),
};

export class CoordinatorServer {
  readonly #options: Required<ServerOptions>;
  readonly #handlers: ServerHandlers;
  /** The first is the one that others know of. */
  #doors: readonly Door[] = [];
  readonly #webSockets: WebSocketServer;
  readonly #turnstile: Turnstile;
  readonly #peers = new Map<Connection, Peer>();
  readonly #byTrainerId = new Map<string, Peer>();
  #nextId = 1;
  #closedBytesSent = 0;
  #closedBytesReceived = 0;
  #pulse: NodeJS.Timeout | null = null;
  #lastPulseMs = 0;
  #isClosing = false;
  #whenEmpty: (() => void) | null = null;

  private constructor(options: ServerOptions, handlers: ServerHandlers) {
    this.#options = { ...DEFAULTS, ...options };
    this.#handlers = handlers;
    this.#turnstile = new Turnstile(this.#options, this.#options.now);
    this.#webSockets = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: MAX_FRAME_BYTES,
      // ws destroys the socket this long after our close frame, answered or not. (Not yet in @types/ws.)
      ...{ closeTimeout: this.#options.closeGraceMs },
    });
  }

  /**
   * Starts to listen.
   * @throws OperatingError if the address cannot be used, saying what to do
   */
  static async listen(options: ServerOptions, handlers: ServerHandlers): Promise<CoordinatorServer> {
    const server = new CoordinatorServer(options, handlers);
    await server.#listen();
    return server;
  }

  /** Where trainers connect: `ws://host:port/` as bound, or `wss:`. */
  get url(): string {
    return this.#doors[0]!.url;
  }

  /** Where those of this machine do. */
  get localUrl(): string {
    return this.#doors.at(-1)!.url;
  }

  get port(): number {
    return this.#doors[0]!.port;
  }

  /** Open connections, admitted or not. */
  get connections(): readonly Connection[] {
    return [...this.#peers.keys()];
  }

  /** Counted on all WebSocket connections since the start, closed ones too. */
  get bytesSent(): number {
    return this.#closedBytesSent + this.connections.reduce((sum, { bytesSent }) => sum + bytesSent, 0);
  }

  get bytesReceived(): number {
    return (
      this.#closedBytesReceived + this.connections.reduce((sum, { bytesReceived }) => sum + bytesReceived, 0)
    );
  }

  /**
   * The Hello was accepted: the connection gets its trainerId. An older connection with that id is
   * closed with SUPERSEDED and its trainerId becomes null, so its onClose concerns nobody.
   */
  admit(connection: Connection, trainerId: string): void {
    const peer = this.#peers.get(connection);
    if (peer === undefined || !connection.isOpen) return;
    const older = this.#byTrainerId.get(trainerId);
    if (older !== undefined && older !== peer) {
      older.connection.trainerId = null;
      older.connection.close(
        'SUPERSEDED',
        `${trainerId} has connected again from ${connection.remoteAddress}`,
      );
    }
    clearTimeout(peer.handshakeTimer);
    peer.isAdmitted = true;
    peer.connection.trainerId = trainerId;
    this.#byTrainerId.set(trainerId, peer);
  }

  /** The open connection of an admitted trainer, or null. */
  connectionOf(trainerId: string): Connection | null {
    const connection = this.#byTrainerId.get(trainerId)?.connection;
    return connection?.isOpen === true ? connection : null;
  }

  /** New certificates for connections from here on. @throws if they cannot be used */
  renewCertificates(tls: PemTexts): void {
    this.#doors[0]!.renew(tls);
  }

  /**
   * Takes no more connections, closes all with this reason after what is queued, and resolves when
   * all sockets are gone.
   */
  async close(reason: CloseReason = 'COORDINATOR_STOPPING', text = 'the coordinator stops'): Promise<void> {
    if (this.#isClosing && this.#peers.size === 0) return;
    this.#isClosing = true;
    for (const { connection } of this.#peers.values()) connection.closeAfterQueue(reason, text);
    const stopped = Promise.all(this.#doors.map((door) => door.close()));
    if (this.#peers.size > 0) await new Promise<void>((resolve) => (this.#whenEmpty = resolve));
    if (this.#pulse !== null) clearInterval(this.#pulse);
    for (const door of this.#doors) door.closeRest();
    await stopped;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listen(): Promise<void> {
    const { host, port, tls, hasLocalDoor, heartbeatIntervalMs, now } = this.#options;
    this.#doors = [await this.#openDoor(host, port, tls)];
    if (hasLocalDoor) {
      try {
        this.#doors = [...this.#doors, await this.#openDoor('127.0.0.1', 0, null)];
      } catch (error) {
        await this.#doors[0]!.close();
        throw error;
      }
    }
    this.#lastPulseMs = now();
    this.#pulse = setInterval(() => this.#checkPulse(), heartbeatIntervalMs);
  }

  #openDoor(host: string, port: number, tls: PemTexts | null): Promise<Door> {
    const { handshakeTimeoutMs, maxConnections, logger } = this.#options;
    return Door.open({
      ...{ host, port, tls, handshakeTimeoutMs, turnstile: this.#turnstile },
      maxSockets: maxConnections + MAX_OTHER_SOCKETS,
      onRequest: (door, request, response) => this.#guard(() => this.#respond(door, request, response)),
      onUpgrade: (door, request, socket, head) =>
        this.#guard(() => this.#upgrade(door, request, socket, head)),
      onError: (error) => logger.error('server.failed', { error }, 'the listening socket failed'),
    });
  }

  #respond(door: Door, request: IncomingMessage, response: ServerResponse): void {
    const crowd = door.isSecure ? null : this.#turnstile.knock(addressOf(request.socket));
    if (crowd !== null) return answer(response, 429, crowd);
    const mayCome = door.isTrusted(request) || PROBE_PATHS.has(pathOf(request));
    if (!mayCome) return answer(response, 403, NO_CERTIFICATE);
    if (this.#handlers.onRequest !== undefined) return this.#handlers.onRequest(request, response);
    answer(response, 404, 'not found');
  }

  #upgrade(door: Door, request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { onLive } = this.#handlers;
    const isLive = onLive !== undefined && pathOf(request) === LIVE_PATH;
    const refusal = this.#refusalOf(door, request, isLive);
    if (refusal !== null) return refuseUpgrade(socket, refusal);
    if (isLive) return onLive.call(this.#handlers, request, socket, head);
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      if (door.isTrusted(request))
        this.#guard(() => this.#connect(webSocket, request.socket, door.wireOf(request.socket)));
      else this.#turnAway(webSocket, request.socket);
    });
  }

  /** Why a request may not become a WebSocket, or null. */
  #refusalOf(door: Door, request: IncomingMessage, isLive: boolean): Refusal | null {
    if (!isLive && pathOf(request) !== '/') return { status: 404, text: 'not found' };
    // A browser sends Origin. No page may talk as a trainer to a coordinator on its visitor's machine.
    if (!isLive && request.headers.origin !== undefined) return { status: 403, text: 'not for web pages' };
    const address = addressOf(request.socket);
    const crowd = (door.isSecure ? null : this.#turnstile.knock(address)) ?? this.#turnstile.crowdOf(address);
    if (crowd !== null) {
      this.#options.logger.warn('connection.refused', { address }, `${address}: ${crowd}`);
      return { status: 429, text: crowd };
    }
    if (this.#isClosing) return { status: 503, text: 'the coordinator stops' };
    if (isLive) return door.isTrusted(request) ? null : { status: 403, text: NO_CERTIFICATE };
    const { maxConnections: most } = this.#options;
    if (this.#peers.size < most) return null;
    const text = `connections: ${this.#peers.size + 1}, allowed: ${most} (coordinator.limits.connections)`;
    this.#options.logger.warn('connection.refused', { address }, `${address}: ${text}`);
    return { status: 503, text };
  }

  /** TLS has not said why: a close code is what the other side can act on. Nothing that it sends is read. */
  #turnAway(webSocket: WebSocket, { remoteAddress }: Socket): void {
    const { logger } = this.#options;
    logger.warn('connection.refused', { address: remoteAddress }, `${remoteAddress}: ${NO_CERTIFICATE}`);
    webSocket.on('error', ignore);
    webSocket.close(CLOSE_CODES.BAD_CERTIFICATE.code, NO_CERTIFICATE);
  }

  #connect(webSocket: WebSocket, stream: Socket, wire: Socket): void {
    const { handshakeTimeoutMs, now, logger } = this.#options;
    const connection = new SocketConnection(this.#nextId++, webSocket, wire, {
      ...this.#options,
      onSent: (frame) => this.#handlers.onFrame?.(connection, 'down', frame),
    });
    const handshakeTimer = setTimeout(
      () => connection.close('TIMEOUT', `no Hello was accepted within ${handshakeTimeoutMs} ms`),
      handshakeTimeoutMs,
    );
    const peer: Peer = {
      connection,
      handshakeTimer,
      hasSaidHello: false,
      isAdmitted: false,
      heardBytes: 0,
      heardAtMs: now(),
      windowStartMs: now(),
      windowMessages: 0,
    };
    this.#peers.set(connection, peer);
    boundHandshake(stream, peer);
    webSocket.on('message', (data: RawData, isBinary: boolean) =>
      this.#guard(() => this.#receive(peer, data as Buffer, isBinary)),
    );
    webSocket.on('ping', () => this.#guard(() => this.#check(peer, () => this.#countMessage(peer))));
    // ws has closed the socket with a code of its own already: 1009 too big, 1002 not WebSocket, …
    webSocket.on('error', (error) =>
      logger.warn('connection.failed', { connection: connection.id }, error.message),
    );
    webSocket.on('close', (code, reason) =>
      this.#guard(() => this.#disconnect(peer, code, reason.toString('utf8'))),
    );
    const fields = { connection: connection.id, address: connection.remoteAddress };
    logger.debug('connection.opened', fields, 'a connection was opened');
    this.#handlers.onConnection?.(connection);
  }

  #receive(peer: Peer, frame: Buffer, isBinary: boolean): void {
    const { connection } = peer;
    this.#handlers.onFrame?.(connection, 'up', frame);
    const message = this.#check(peer, () => {
      this.#countMessage(peer);
      if (!isBinary) throw protocolError('MALFORMED_MESSAGE', 'a text message; all messages are binary');
      const decoded = decodeEnvelope(frame, 'trainer');
      if (decoded.kind !== 'goodbye') checkTurn(peer, decoded);
      return decoded;
    });
    if (message === null) return;
    if (message.kind === 'goodbye') {
      connection.acknowledgeGoodbye({ code: message.code, reason: message.reason });
    } else {
      this.#check(peer, () => this.#handlers.onMessage(connection, message, frame));
    }
  }

  /** Runs a check of what a peer did; what is wrong with it closes its connection. */
  #check<T>(peer: Peer, action: () => T): T | null {
    if (!peer.connection.isOpen) return null;
    try {
      return action();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      peer.connection.close(closeReasonOf(error.closeCode) ?? 'INTERNAL_ERROR', error.message);
      return null;
    }
  }

  #countMessage(peer: Peer): void {
    const { now, maxMessagesPerSecond } = this.#options;
    const nowMs = now();
    if (nowMs - peer.windowStartMs >= 1_000) {
      peer.windowStartMs = nowMs;
      peer.windowMessages = 0;
    }
    if (++peer.windowMessages > maxMessagesPerSecond) {
      throw protocolError(
        'LIMIT_EXCEEDED',
        `messages and pings in a second: ${peer.windowMessages}, allowed: ${maxMessagesPerSecond} ` +
          '(coordinator.limits.messages_per_second)',
      );
    }
    // Whatever comes may be answered at once: to be read, not to be kept here. (ws bounds its pongs by itself.)
    const { bytesInSocket } = peer.connection;
    if (bytesInSocket > MAX_SOCKET_BYTES) {
      throw protocolError(
        'TIMEOUT',
        `it reads nothing: ${bytesInSocket} bytes wait for it, allowed: ${MAX_SOCKET_BYTES}`,
      );
    }
  }

  #disconnect(peer: Peer, code: number, reason: string): void {
    const { connection } = peer;
    clearTimeout(peer.handshakeTimer);
    connection.release();
    this.#peers.delete(connection);
    if (connection.trainerId !== null && this.#byTrainerId.get(connection.trainerId) === peer) {
      this.#byTrainerId.delete(connection.trainerId);
    }
    this.#closedBytesSent += connection.bytesSent;
    this.#closedBytesReceived += connection.bytesReceived;
    const cause = connection.closeCause ?? { code, reason };
    const fields = { connection: connection.id, code: cause.code };
    this.#options.logger.debug('connection.closed', fields, cause.reason);
    try {
      this.#handlers.onClose(connection, cause.code, cause.reason);
    } finally {
      if (this.#peers.size === 0) this.#whenEmpty?.();
    }
  }

  /** Pings everyone and closes those on whose sockets no byte came for too long. */
  #checkPulse(): void {
    const { now, heartbeatIntervalMs, heartbeatTimeoutMs } = this.#options;
    const nowMs = now();
    // After a pause of our own (a long sum, a suspended machine) what was received meanwhile is not read yet.
    const wasAsleep = nowMs - this.#lastPulseMs > 2 * heartbeatIntervalMs;
    this.#lastPulseMs = nowMs;
    for (const peer of this.#peers.values()) {
      const { connection } = peer;
      if (connection.bytesReceived !== peer.heardBytes || wasAsleep) {
        peer.heardBytes = connection.bytesReceived;
        peer.heardAtMs = nowMs;
      } else if (nowMs - peer.heardAtMs >= heartbeatTimeoutMs) {
        connection.close('TIMEOUT', `nothing heard for ${((nowMs - peer.heardAtMs) / 1000).toFixed(1)} s`);
        continue;
      }
      connection.ping();
    }
  }

  /** Runs what a socket brought about: whatever it throws is a bug of ours. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#handlers.onFatal(error);
    }
  }
}

/** What comes before the Hello is accepted is little, and no more of it is held in memory. */
function boundHandshake(stream: Socket, peer: Peer): void {
  let bytes = 0;
  const count = (chunk: Buffer): void => {
    bytes += chunk.length;
    if (!peer.isAdmitted && bytes <= MAX_HANDSHAKE_BYTES) return;
    stream.off('data', count);
    if (peer.isAdmitted) return;
    const text = `bytes before the Welcome: ${bytes}, allowed: ${MAX_HANDSHAKE_BYTES}`;
    peer.connection.close('LIMIT_EXCEEDED', text);
  };
  stream.on('data', count);
}

/** Refuses a message that is not allowed before or after the handshake. */
function checkTurn(peer: Peer, message: ReceivedMessage): void {
  if (!peer.hasSaidHello) {
    if (message.kind !== 'hello')
      throw protocolError('UNEXPECTED_MESSAGE', `${message.kind} came before Hello`);
    peer.hasSaidHello = true;
  } else if (message.kind === 'hello') {
    throw protocolError('UNEXPECTED_MESSAGE', 'a second Hello');
  } else if (!peer.isAdmitted && message.kind !== 'heartbeat') {
    throw protocolError('UNEXPECTED_MESSAGE', `${message.kind} came before the Welcome`);
  }
}

/** What a request is answered with that does not become a WebSocket. */
export interface Refusal {
  readonly status: 403 | 404 | 429 | 503;
  readonly text: string;
}

function answer(response: ServerResponse, status: Refusal['status'], text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain' }).end(`${text}\n`);
}

/** The socket does not stay open for one who does not close it. */
export function refuseUpgrade(
  socket: Duplex,
  { status, text }: Refusal,
  headers: Readonly<Record<string, string>> = {},
): void {
  socket.on('error', ignore);
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'Connection: close',
    'Content-Type: text/plain',
    `Content-Length: ${Buffer.byteLength(text) + 1}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${text}\n`);
  const giveUp = setTimeout(() => socket.destroy(), REFUSAL_TIME_MS);
  socket.once('close', () => clearTimeout(giveUp));
}

function ignore(): void {
  return;
}
