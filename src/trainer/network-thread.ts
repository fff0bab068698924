/**
 * The trainer's network thread: sockets, frames, heartbeats and reconnects, away from the thread that
 * computes. It carries out the effects of core/session.ts and hands whole tensors, records and
 * messages to link.ts on the other side.
 */
import { CODEC_NAMES } from '../galore/codec/codec.ts';
import { Buffer } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { ProtocolError } from '../errors.ts';
import type { PemTexts } from '../files/pem.ts';
import { BufferPool } from '../protocol/buffer-pool.ts';
import { protocolError } from '../protocol/checks.ts';
import { CLOSE_CODES, closeReasonOf, type CloseReason } from '../protocol/close-codes.ts';
import { isSameDigest } from '../protocol/digest.ts';
import { decodeEnvelope } from '../protocol/envelope.ts';
import type { Message, SnapshotHeader, SnapshotProgress, WelcomeMessage } from '../protocol/messages.ts';
import { contributionBytes, type Ranks } from '../protocol/slot-sizes.ts';
import { PROTOCOL_VERSIONS } from '../protocol/version.ts';
import { derive } from '../random.ts';
import { keepYoungGenerationSmall } from '../heap.ts';
import { advanceSession, startSession } from './core/session.ts';
import type {
  HeldState,
  SessionEffect,
  SessionEvent,
  SessionState,
  SessionTransition,
} from './core/session.ts';
import { addressesOf, findAddresses, indexOfUrl, splitUrls, type Address } from './addresses.ts';
import { Audit } from './audit.ts';
import { Inbox, type InboxItem } from './inbox.ts';
import type { Activity, LinkEvent } from './link.ts';
import { Line, type StandbyRefusal } from './line.ts';
import type { FromThread, ThreadOptions, ToThread } from './thread-messages.ts';

/** How often the session hears what time it is. */
const TICK_INTERVAL_MS = 100;

/** An event without its time. */
type Fact = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, 'nowMs'> : never) : never;

export class NetworkThread {
  readonly #options: ThreadOptions;
  readonly #post: (message: FromThread, transfer: ArrayBuffer[]) => void;
  readonly #onEnd: () => void;
  readonly #onAccepted: (message: Message, frame: Uint8Array) => void;
  readonly #ticker: NodeJS.Timeout;
  #session!: SessionState;
  #line: Line | null = null;
  /** Those that are closing, too. */
  readonly #openLines = new Set<Line>();
  #pastTraffic = { sent: 0, received: 0 };
  /** The last answer of the compute side and the Welcome it was for. */
  #accepted:
    (Pick<Extract<ToThread, { type: 'accept' }>, 'sizes' | 'examples'> & { readonly key: string }) | null =
    null;
  /** What the compute side has of a snapshot whose end has not come. */
  #progress: SnapshotProgress | null = null;
  /** Ranks that refreshes have chosen up to the last record that came. */
  #ranks: Ranks;
  #activity: Required<Activity> = { activity: '', tensorCount: 0, tokensPerSecond: 0 };
  /** Updates are put together where contributions were: buffers go round between the threads. */
  readonly #pool = new BufferPool();
  #lastItem = 0;
  #applied: { readonly item: number; readonly sequence: number } | null = null;
  #undeliveredBytes = 0;
  #hasEnded = false;
  readonly #audit: Audit | null;
  readonly #urls: readonly string[];
  #addresses: readonly Address[];
  /** As they could last be read. */
  #tls: PemTexts = {};

  /** @param onAccepted sees every message behind the Welcome, before what it completes is posted */
  constructor(
    options: ThreadOptions,
    post: (message: FromThread, transfer: ArrayBuffer[]) => void,
    onEnd: () => void,
    onAccepted: (message: Message, frame: Uint8Array) => void = () => {},
  ) {
    this.#options = options;
    this.#onAccepted = onAccepted;
    this.#ranks = options.ranks ?? new Map();
    this.#urls = splitUrls(options.url);
    this.#addresses = addressesOf(this.#urls);
    this.#audit = options.isAudited ? new Audit() : null;
    this.#post = post;
    this.#onEnd = onEnd;
    this.#ticker = setInterval(() => this.#tick(), TICK_INTERVAL_MS);
  }

  start(): void {
    const { trainerId, handshakeTimeoutMs, held = null } = this.#options;
    const addresses = this.#addresses.length;
    const plan = { seed: derive(0, 'session', trainerId).low, handshakeTimeoutMs, addresses };
    this.#carryOut(startSession(plan, held, performance.now()));
    this.#findAddresses();
  }

  /** A message of the compute side. */
  take(message: ToThread): void {
    switch (message.type) {
      case 'accept':
        return this.#accept(message.connection, message);
      case 'refuse':
        return this.#refuse(message.connection, message.reason, message.text);
      case 'send': {
        const line = this.#lineOf(message.connection);
        return line?.outbox.send(complete(message.message));
      }
      case 'sendTensor': {
        const line = this.#lineOf(message.connection);
        if (line === null) return this.#post({ type: 'flushed', bytes: message.bytes.length }, []);
        return line.outbox.sendTensor(message.header, message.bytes);
      }
      case 'stepBegun':
        return this.#lineOf(message.connection)?.outbox.beginStep();
      case 'applied':
        this.#applied = message;
        return this.#reportApplied();
      case 'spoiled':
        return this.#advance({ type: 'stateSpoiled', text: message.text });
      case 'taken':
        this.#undeliveredBytes -= message.bytes;
        return this.#adjustFlow();
      case 'activity':
        this.#activity = { ...this.#activity, ...message.activity };
        return;
      case 'leave':
        return this.#advance({ type: 'leaveRequested', text: message.text });
      default:
        message satisfies never;
    }
  }

  // ---- the session ----

  #advance(fact: Fact): void {
    this.#carryOut(advanceSession(this.#session, { ...fact, nowMs: performance.now() } as SessionEvent));
  }

  #carryOut({ state, effects }: SessionTransition): void {
    this.#session = state;
    for (const effect of effects) this.#perform(effect);
  }

  #perform(effect: SessionEffect): void {
    switch (effect.type) {
      case 'openSocket':
        return this.#open(effect.connection, effect.address);
      case 'closeSocket':
        return this.#line?.close(effect.reason, effect.text);
      case 'sendHello':
        return this.#sendHello(effect.held);
      case 'sendReady': {
        const examples = this.#accepted?.examples;
        return this.#line?.outbox.send({
          kind: 'ready',
          sequence: effect.sequence,
          device: this.#options.device,
          ...(examples === undefined ? {} : { examples }),
        });
      }
      case 'sendHeartbeat':
        return this.#line?.outbox.send({
          kind: 'heartbeat',
          residentBytes: process.memoryUsage.rss(),
          ...this.#activity,
        });
      case 'dropWork':
        return this.#dropLine();
      case 'askApplied':
        return this.#reportApplied();
      case 'discardState':
        this.#applied = null;
        this.#progress = null;
        return this.#emit({ type: 'stateDiscarded' });
      case 'report':
        return this.#report(effect.status, effect.text);
      default:
        effect satisfies never;
    }
  }

  #report(status: SessionState['phase']['phase'], text: string): void {
    const level = status === 'backing-off' ? 'warn' : 'info';
    this.#post({ type: 'log', level, event: `session.${status}`, fields: {}, message: text }, []);
    const { phase } = this.#session;
    if (phase.phase === 'backing-off') {
      const willRetryMs = Math.max(0, phase.retryAtMs - performance.now());
      this.#emit({ type: 'disconnected', reason: text, willRetryMs });
      if (willRetryMs > 0) this.#findAddresses();
    }
    if (phase.phase === 'closed') this.#endIfClosed();
  }

  #reportApplied(): void {
    if (this.#applied === null || this.#applied.item !== this.#lastItem) return;
    this.#advance({ type: 'stateApplied', sequence: this.#applied.sequence });
  }

  #tick(): void {
    const line = this.#line;
    const { phase } = this.#session.phase;
    if (line !== null && (phase === 'loading' || phase === 'active')) {
      if (line.wasHeard()) this.#advance({ type: 'frameReceived', connection: line.connection });
    }
    this.#countTraffic();
    this.#advance({ type: 'ticked' });
  }

  // ---- sockets ----

  /** DNS may have other addresses than before. */
  #findAddresses(): void {
    findAddresses(this.#urls).then(
      (addresses) => {
        this.#addresses = addresses;
        this.#advance({ type: 'addressesFound', count: addresses.length });
      },
      () => {}, // what cannot be looked up stays as it was
    );
  }

  #open(connection: number, address: number): void {
    const { handshakeTimeoutMs } = this.#options;
    this.#tls = this.#readTls();
    this.#line = new Line(connection, this.#addresses[address]!, this.#tls, handshakeTimeoutMs, {
      onOpen: () => this.#advance({ type: 'socketOpened', connection }),
      onFrame: (line, frame, isBinary) => this.#receive(line, frame, isBinary),
      onClose: (line, code, text, standby) => this.#closed(line, code, text, standby),
      onFlushed: (bytes) => this.#post({ type: 'flushed', bytes }, []),
      onFramed: (bytes) => this.#pool.give([bytes], this.#payloadBytes()),
      onSent: (frame) => this.#audit?.note(frame),
    });
    this.#openLines.add(this.#line);
  }

  #readTls(): PemTexts {
    try {
      const texts = Object.entries(this.#options.tls).flatMap(([name, path]) =>
        path === undefined ? [] : [[name, readFileSync(path, 'utf8')]],
      );
      return Object.fromEntries(texts) as PemTexts;
    } catch (error) {
      const message = `${(error as Error).message}; what was read before stays in use`;
      this.#post({ type: 'log', level: 'warn', event: 'certificates.unreadable', fields: {}, message }, []);
      return this.#tls;
    }
  }

  #closed(line: Line, code: number, text: string, refusal: StandbyRefusal | null): void {
    this.#openLines.delete(line);
    this.#pastTraffic.sent += line.bytesSent;
    this.#pastTraffic.received += line.bytesReceived;
    this.#countTraffic();
    const standby = refusal && { leader: indexOfUrl(this.#addresses, refusal.leaderUrl) };
    this.#advance({
      type: 'socketClosed',
      connection: line.connection,
      ...{ code, text, ...(standby === null ? {} : { standby }) },
    });
    this.#endIfClosed();
  }

  #dropLine(): void {
    this.#line?.outbox.close();
    this.#line = null;
  }

  /** Ends the thread once the session is over and the last Goodbye is out. */
  #endIfClosed(): void {
    const { phase } = this.#session;
    if (this.#hasEnded || phase.phase !== 'closed' || this.#openLines.size > 0) return;
    this.#hasEnded = true;
    clearInterval(this.#ticker);
    const { code, mayRetry } = CLOSE_CODES[phase.reason];
    if (this.#audit !== null) this.#post({ type: 'audit', rows: this.#audit.rows }, []);
    this.#emit({ type: 'closed', reason: phase.reason, code, text: phase.text, mayRetry });
    this.#onEnd();
  }

  #sendHello(held: HeldState | null): void {
    const { trainerId, runName, token, software, schemaHash } = this.#options;
    this.#line?.outbox.send({
      kind: 'hello',
      protocolVersions: PROTOCOL_VERSIONS,
      trainerId,
      runName,
      token,
      software,
      runId: held?.runId ?? '',
      sequence: held?.sequence ?? 0,
      digest: held === null ? new Uint8Array(0) : fromHex(held.digest),
      schemaHash,
      codecs: CODEC_NAMES,
      snapshot: held === null ? this.#progress : null,
      ...(this.#options.isGateway === true ? { isGateway: true as const } : {}),
    });
  }

  // ---- what comes in ----

  #receive(line: Line, frame: Buffer, isBinary: boolean): void {
    if (line !== this.#line) return;
    const message = this.#check(line, () => {
      if (!isBinary) throw protocolError('MALFORMED_MESSAGE', 'a text message; all messages are binary');
      return decodeEnvelope(frame, 'coordinator');
    });
    if (message === null) return;
    const { connection } = line;
    if (message.kind === 'goodbye') {
      this.#advance({ type: 'goodbyeReceived', connection, code: message.code, text: message.reason });
    } else if (message.kind === 'welcome') {
      this.#welcome(line, message);
    } else if (line.welcome === null) {
      this.#advance({ type: 'frameReceived', connection }); // the session refuses it
    } else if (line.inbox === null) {
      line.early.push({ message, frame });
    } else {
      this.#deliver(line, line.inbox, message, frame);
    }
  }

  #welcome(line: Line, welcome: WelcomeMessage): void {
    const { connection } = line;
    const isGood = this.#check(line, () => {
      this.#checkWelcome(welcome);
      return true;
    });
    if (isGood === null) return;
    line.welcome = welcome;
    const { runId, heartbeatIntervalMs, heartbeatTimeoutMs } = welcome;
    const hasSnapshot = welcome.snapshot !== null;
    this.#advance({
      type: 'welcomed',
      connection,
      runId,
      hasSnapshot,
      heartbeatIntervalMs,
      heartbeatTimeoutMs,
    });
    if (line !== this.#line) return; // a second Welcome
    this.#emit({ type: 'connected', welcome });
    if (this.#accepted?.key === keyOf(welcome)) this.#accept(connection, this.#accepted);
    else this.#adjustFlow();
  }

  #checkWelcome(welcome: WelcomeMessage): void {
    const { runName, schemaHash } = this.#options;
    if (!PROTOCOL_VERSIONS.includes(welcome.protocolVersion)) {
      throw protocolError('PROTOCOL_VERSION', `the coordinator chose version ${welcome.protocolVersion}`);
    }
    const { snapshot } = welcome;
    if (snapshot !== null && snapshot.firstTensor > 0 && !this.#has(welcome.runId, snapshot)) {
      const text = `the snapshot of record ${snapshot.sequence} begins with tensor ${snapshot.firstTensor}`;
      throw protocolError('UNEXPECTED_MESSAGE', `${text}, and what comes before it is not here`);
    }
    if (runName !== '' && welcome.runName !== runName) {
      throw protocolError('WRONG_RUN', `the coordinator serves run "${welcome.runName}", not "${runName}"`);
    }
    if (schemaHash.length > 0 && !isSameDigest(schemaHash, welcome.schemaHash)) {
      throw protocolError('SCHEMA_MISMATCH', 'the run has another model than this trainer');
    }
  }

  /** Whether the compute side has what this snapshot leaves out. */
  #has(runId: string, { sequence, digest, firstTensor }: SnapshotHeader): boolean {
    const progress = this.#progress;
    if (progress === null || progress.runId !== runId || progress.sequence !== sequence) return false;
    return isSameDigest(progress.digest, digest) && firstTensor <= progress.tensors;
  }

  /** After a tensor or the end of a snapshot. */
  #keepProgress({ welcome, inbox }: Line): void {
    const header = welcome?.snapshot;
    const tensors = inbox?.snapshotTensors ?? 0;
    const isUnderWay = header && header.digest.length > 0 && tensors > 0;
    this.#progress = isUnderWay
      ? { runId: welcome.runId, sequence: header.sequence, digest: header.digest.slice(), tensors }
      : null;
  }

  #accept(
    connection: number,
    { sizes, examples }: Pick<Extract<ToThread, { type: 'accept' }>, 'sizes' | 'examples'>,
  ): void {
    const line = this.#lineOf(connection);
    if (line === null || line.welcome === null || line.inbox !== null) return;
    this.#accepted = { key: keyOf(line.welcome), sizes, examples };
    const { held } = this.#session;
    const head = held && { sequence: held.sequence, digest: fromHex(held.digest) };
    line.inbox = new Inbox(line.welcome, head, sizes, this.#ranks, (byteLength) =>
      this.#pool.take(byteLength),
    );
    for (const { message, frame } of line.early.splice(0)) {
      if (line === this.#line) this.#deliver(line, line.inbox, message, frame);
    }
    this.#adjustFlow();
  }

  #refuse(connection: number, reason: CloseReason, text: string): void {
    this.#advance({ type: 'messageRefused', connection, reason, text });
  }

  #deliver(line: Line, inbox: Inbox, message: Message, frame: Uint8Array): void {
    const item = this.#check(line, () => {
      const accepted = inbox.accept(message, frame);
      this.#onAccepted(message, frame);
      return accepted;
    });
    if (item === null) return;
    if (item.type === 'record' || item.type === 'snapshotEnd') this.#ranks = inbox.ranks;
    if (item.type === 'tensor' || item.type === 'snapshotEnd') this.#keepProgress(line);
    this.#reportReceived(line, item);
    const isState = item.type === 'snapshotEnd' || item.type === 'record';
    const tensors = item.type === 'tensor' ? [item.tensor] : item.type === 'record' ? item.tensors : [];
    this.#undeliveredBytes += tensors.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#emit(
      item,
      isState ? ++this.#lastItem : 0,
      tensors.map(({ bytes }) => bytes.buffer),
    );
    this.#adjustFlow();
  }

  #reportReceived({ connection }: Line, item: InboxItem): void {
    if (item.type === 'snapshotEnd') {
      const { sequence, digest } = item.message;
      this.#advance({ type: 'snapshotReceived', connection, sequence, digest: toHex(digest) });
    } else if (item.type === 'record') {
      const { sequence, digest } = item.commit;
      this.#advance({ type: 'recordReceived', connection, sequence, digest: toHex(digest) });
    } else if (item.type === 'message') {
      const { kind } = item.message;
      if (kind === 'stepAssignment' || kind === 'evaluationAssignment') {
        this.#advance({ type: 'assigned', connection });
      }
    }
  }

  /** Runs a check of what the coordinator sent; what is wrong with it ends the connection. */
  #check<T>(line: Line, action: () => T): T | null {
    try {
      return action();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      const reason = closeReasonOf(error.closeCode) ?? 'INTERNAL_ERROR';
      this.#advance({
        type: 'messageRefused',
        connection: line.connection,
        reason,
        text: error.message,
      });
      return null;
    }
  }

  /** Reads from the socket only while the compute side has said yes and is not too far behind. */
  #adjustFlow(): void {
    const line = this.#line;
    if (line === null || line.welcome === null) return;
    const mustWait = line.inbox === null || this.#undeliveredBytes > this.#options.maxUndeliveredBytes;
    line.setReading(!mustWait);
  }

  #lineOf(connection: number): Line | null {
    return this.#line?.connection === connection ? this.#line : null;
  }

  #emit(event: LinkEvent, item = 0, transfer: ArrayBuffer[] = []): void {
    const bytes = transfer.reduce((sum, buffer) => sum + buffer.byteLength, 0);
    this.#post({ type: 'event', event, connection: this.#session.connection, item, bytes }, transfer);
  }

  /** Bytes of a contribution at the configured ranks. */
  #payloadBytes(): number {
    return contributionBytes(this.#accepted?.sizes ?? []);
  }

  #countTraffic(): void {
    let { sent, received } = this.#pastTraffic;
    for (const line of this.#openLines) {
      sent += line.bytesSent;
      received += line.bytesReceived;
    }
    this.#options.traffic[0] = sent;
    this.#options.traffic[1] = received;
  }
}

/** The fields the compute side leaves to this thread. */
function complete(message: Extract<ToThread, { type: 'send' }>['message']): Message {
  switch (message.kind) {
    case 'contribution':
      return { ...message, checksum: 0 };
    case 'snapshotEnd':
      return { ...message, digest: new Uint8Array(0) };
    default:
      return message;
  }
}

/** What the answer of the compute side depends on. */
function keyOf({ schemaHash, configJson, modelJson }: WelcomeMessage): string {
  return `${toHex(schemaHash)}\n${configJson}\n${modelJson}`;
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

function fromHex(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'hex'));
}

const port = parentPort;
if (port !== null) {
  keepYoungGenerationSmall();
  const thread = new NetworkThread(
    workerData as ThreadOptions,
    (message, transfer) => port.postMessage(message, transfer),
    () => port.close(),
  );
  port.on('message', (message: ToThread) => thread.take(message));
  thread.start();
}
