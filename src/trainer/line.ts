/**
 * One socket of a trainer and what belongs to it: its outbox, what it has received, its bytes. It
 * knows how to open and close politely; what is said over it is network-thread.ts' business.
 */
import type { Socket } from 'node:net';
import { WebSocket, type RawData } from 'ws';
import { CLOSE_CODES, type CloseReason } from '../protocol/close-codes.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { MAX_FRAME_BYTES } from '../protocol/limits.ts';
import type { Message, WelcomeMessage } from '../protocol/messages.ts';
import { cutText, MAX_CLOSE_TEXT_BYTES, MAX_GOODBYE_LENGTH } from '../protocol/texts.ts';
import type { Inbox } from './inbox.ts';
import type { PemTexts } from '../files/pem.ts';
import { connectErrorText, connectFaultOf, standbyText, type ConnectError } from './connect-error.ts';
import type { Address } from './addresses.ts';
import { Outbox } from './outbox.ts';
import { LEADER_HEADER } from '../protocol/standby.ts';

/** Between our close frame and the destruction of the socket. */
const CLOSE_GRACE_MS = 2_000;

/** What is told of a line. */
export interface LineHandlers {
  onOpen(line: Line): void;
  onFrame(line: Line, frame: Buffer, isBinary: boolean): void;
  /** Last of all. `code` is that of the close frame, 1006 without one, or ours if it could not be opened and never will. */
  onClose(line: Line, code: number, text: string, standby: StandbyRefusal | null): void;
  /** Tensor bytes that left or were dropped. */
  onFlushed(bytes: number): void;
  /** A tensor that was given to the outbox and is not needed there any more. */
  onFramed(bytes: Uint8Array): void;
  /** A frame that is given to the socket. */
  onSent(frame: Uint8Array): void;
}

/** A coordinator that does not lead the run has refused the connection. */
export interface StandbyRefusal {
  /** Where trainers reach the one that does, as far as it knows. */
  readonly leaderUrl: string;
}

export class Line {
  readonly connection: number;
  readonly outbox: Outbox;
  readonly #webSocket: WebSocket;
  readonly #onSent: (frame: Uint8Array) => void;
  #socket: Socket | null = null;
  #error: ConnectError | null = null;
  #heardBytes = 0;
  welcome: WelcomeMessage | null = null;
  /** null until the compute side has accepted the Welcome. */
  inbox: Inbox | null = null;
  /** What came between the Welcome and that. */
  readonly early: { readonly message: Message; readonly frame: Uint8Array }[] = [];

  constructor(
    connection: number,
    { url, lookup }: Address,
    tls: PemTexts,
    handshakeTimeoutMs: number,
    handlers: LineHandlers,
  ) {
    this.connection = connection;
    const webSocket = new WebSocket(url, {
      ...tls,
      ...(lookup === undefined ? {} : { lookup }),
      minVersion: 'TLSv1.2',
      perMessageDeflate: false,
      maxPayload: MAX_FRAME_BYTES,
      // The session decides; this is for a socket that it has forgotten.
      handshakeTimeout: 2 * handshakeTimeoutMs,
      // ws destroys the socket this long after our close frame, answered or not. (Not yet in @types/ws.)
      ...{ closeTimeout: CLOSE_GRACE_MS },
    });
    this.#webSocket = webSocket;
    this.outbox = new Outbox(
      webSocket,
      (bytes) => handlers.onFlushed(bytes),
      (bytes) => handlers.onFramed(bytes),
      (frame) => handlers.onSent(frame),
    );
    this.#onSent = (frame) => handlers.onSent(frame);
    let standby: StandbyRefusal | null = null;
    webSocket.on('unexpected-response', (_request, { statusCode, headers }) => {
      const leaderUrl = headers[LEADER_HEADER];
      if (statusCode === 503 && typeof leaderUrl === 'string') standby = { leaderUrl };
      this.#error = { message: `Unexpected server response: ${statusCode}` };
      webSocket.terminate();
    });
    webSocket.on('upgrade', (response) => (this.#socket = response.socket));
    webSocket.on('open', () => handlers.onOpen(this));
    webSocket.on('message', (data: RawData, isBinary: boolean) =>
      handlers.onFrame(this, data as Buffer, isBinary),
    );
    webSocket.on('error', (error) => (this.#error ??= error));
    webSocket.on('close', (code, reason) => {
      this.outbox.close();
      const error = this.#error;
      const fault = error === null ? null : connectFaultOf(url, error);
      if (fault !== null) return handlers.onClose(this, CLOSE_CODES[fault.reason].code, fault.text, null);
      if (reason.length > 0) return handlers.onClose(this, code, reason.toString('utf8'), null);
      const text =
        standby === null ? error && connectErrorText(url, error) : standbyText(url, standby.leaderUrl);
      handlers.onClose(this, code, text ?? '', standby);
    });
  }

  get bytesSent(): number {
    return this.#socket?.bytesWritten ?? 0;
  }

  get bytesReceived(): number {
    return this.#socket?.bytesRead ?? 0;
  }

  /**
   * Whether any byte came since the last call, so that a large message on a slow link is not taken for silence. A line
   * that is not read at the moment cannot be silent.
   */
  wasHeard(): boolean {
    const heardBytes = this.bytesReceived;
    const wasHeard = heardBytes !== this.#heardBytes || this.#webSocket.isPaused;
    this.#heardBytes = heardBytes;
    return wasHeard;
  }

  /** Reads from the socket, or leaves it to the operating system to hold the coordinator back. */
  setReading(isReading: boolean): void {
    if (!isReading && !this.#webSocket.isPaused) this.#webSocket.pause();
    if (isReading && this.#webSocket.isPaused) this.#webSocket.resume();
  }

  /** Says Goodbye and closes; `onClose` follows. */
  close(reason: CloseReason, text: string): void {
    const webSocket = this.#webSocket;
    if (webSocket.readyState === WebSocket.CONNECTING) webSocket.terminate();
    if (webSocket.readyState !== WebSocket.OPEN) return;
    const { code } = CLOSE_CODES[reason];
    const goodbye = encodeEnvelope({ kind: 'goodbye', code, reason: text.slice(0, MAX_GOODBYE_LENGTH) });
    this.#onSent(goodbye);
    webSocket.send(goodbye);
    webSocket.resume(); // else the answer to our close frame is never read
    webSocket.close(code, cutText(text, MAX_CLOSE_TEXT_BYTES));
  }
}
