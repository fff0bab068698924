/**
 * The coordinator's door: an HTTP server whose upgraded sockets become Connections. It checks frames,
 * the first message and the pulse of each; what messages mean is its handlers' business.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Logger } from '../log.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type { Message } from '../protocol/messages.ts';
import type { Connection } from './connection.ts';

export type { Connection } from './connection.ts';

export interface ServerOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Sockets, admitted or not; more are refused with HTTP 503. Default 256. */
  readonly maxConnections?: number;
  /** Until the first message, a Hello. */
  readonly handshakeTimeoutMs: number;
  /** Between WebSocket pings. */
  readonly heartbeatIntervalMs: number;
  /** A connection on which no byte came for this long is closed with TIMEOUT. */
  readonly heartbeatTimeoutMs: number;
  /** Queued for one connection beyond its first item. Default 256 MiB. */
  readonly maxUnsentBytes?: number;
  /** Messages of one connection in one second; more is LIMIT_EXCEEDED. Default 10 000. */
  readonly maxMessagesPerSecond?: number;
  /** Between our close frame and the destruction of the socket. Default 2 000. */
  readonly closeGraceMs?: number;
  /** For closeAfterQueue. Default 30 000. */
  readonly drainTimeoutMs?: number;
  readonly logger: Logger;
}

/**
 * Called one at a time, never from inside a call to a Connection. A handler may throw a ProtocolError
 * to close the connection it was called for; anything else it throws goes to onFatal.
 */
export interface ServerHandlers {
  /** A socket was upgraded; nothing is known of it yet. */
  onConnection?(connection: Connection): void;
  /** A checked message; the first one of a connection is a Hello, later ones are not. `bytes` inside are views of `frame`. */
  onMessage(connection: Connection, message: Message, frame: Uint8Array): void;
  /** Once for every connection, when its socket is gone. `code` is the WebSocket close code, 1006 without a close frame. */
  onClose(connection: Connection, code: number, reason: string): void;
  /** A bug of ours: log it and end the process. */
  onFatal(error: unknown): void;
  /** Any HTTP request that is no upgrade; without it the answer is 404. */
  onRequest?(request: IncomingMessage, response: ServerResponse): void;
}

export class CoordinatorServer {
  readonly #options: ServerOptions;
  readonly #handlers: ServerHandlers;

  private constructor(options: ServerOptions, handlers: ServerHandlers) {
    this.#options = options;
    this.#handlers = handlers;
  }

  /**
   * Starts to listen.
   * @throws OperatingError if the address cannot be used, saying what to do
   */
  static async listen(options: ServerOptions, handlers: ServerHandlers): Promise<CoordinatorServer> {
    return new CoordinatorServer(options, handlers);
  }

  /** `host:port` as bound. */
  get address(): string {
    return `${this.#options.host}:${this.port}`;
  }

  get port(): number {
    throw new Error(`not written yet ${typeof this.#handlers}`);
  }

  /** Open connections, admitted or not. */
  get connections(): readonly Connection[] {
    return [];
  }

  /** Counted on all sockets since the start, closed ones too. */
  get bytesSent(): number {
    return 0;
  }

  get bytesReceived(): number {
    return 0;
  }

  /**
   * The Hello was accepted: the connection gets its trainerId. An older connection with that id is
   * closed with SUPERSEDED and its trainerId becomes null, so its onClose concerns nobody.
   */
  admit(connection: Connection, trainerId: string): void {
    throw new Error(`not written yet ${connection.id} ${trainerId}`);
  }

  /** The open connection of an admitted trainer. */
  connectionOf(trainerId: string): Connection | null {
    throw new Error(`not written yet ${trainerId}`);
  }

  /** Takes no more connections, closes all with this reason after what is queued, and resolves when all sockets are gone. */
  async close(reason: CloseReason = 'COORDINATOR_STOPPING', text = 'the coordinator stops'): Promise<void> {
    throw new Error(`not written yet ${reason} ${text}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
