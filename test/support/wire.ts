/** A CoordinatorServer, raw sockets and Links on 127.0.0.1 for tests; all are closed by `t.teardown`. */
import type { ExecutionContext } from 'ava';
import { WebSocket, type ClientOptions } from 'ws';
import {
  CoordinatorServer,
  type Connection,
  type ReceivedMessage,
  type ServerOptions,
} from '../../src/coordinator/server.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import { decodeEnvelope, encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { HelloMessage, Message, MessageKind, WelcomeMessage } from '../../src/protocol/messages.ts';
import type { SlotSizes } from '../../src/protocol/slot-sizes.ts';
import { Link, type LinkEvent, type LinkOptions } from '../../src/trainer/link.ts';
import { Mailbox } from './mailbox.ts';

export const HELLO: HelloMessage = {
  kind: 'hello',
  protocolVersions: [5],
  trainerId: 'a',
  runName: '',
  token: '',
  software: 'test',
  runId: '',
  sequence: 0,
  digest: new Uint8Array(0),
  schemaHash: new Uint8Array(0),
  codecs: ['f32', 'bf16', 'int8', 'int4'],
  snapshot: null,
};

export const WELCOME: WelcomeMessage = {
  kind: 'welcome',
  protocolVersion: 5,
  runId: 'run-1',
  runName: 'demo',
  configJson: '{}',
  modelJson: '{}',
  schemaHash: new Uint8Array(32),
  heartbeatIntervalMs: 20_000,
  heartbeatTimeoutMs: 60_000,
  snapshot: null,
};

/** One dense slot of three numbers. */
export const SIZES: readonly SlotSizes[] = [
  {
    slot: { name: 'w', shape: [3], index: 0, policy: 'dense', rule: 'adamw' },
    codecs: { contribution: 'f32', update: 'f32' },
    basis: null,
    sketches: [],
  },
];

/** What a test's handlers were told. */
export interface Received {
  readonly connection: Connection;
  readonly message: ReceivedMessage;
}
export interface Ended {
  readonly connection: Connection;
  readonly code: number;
  readonly reason: string;
}

/** A server and everything it reports. */
export interface TestServer {
  readonly server: CoordinatorServer;
  readonly url: string;
  readonly messages: Mailbox<Received>;
  readonly ends: Mailbox<Ended>;
  readonly fatals: unknown[];
  /** Replaces what happens on a message; the default admits on Hello and puts everything into `messages`. */
  onMessage: (connection: Connection, message: ReceivedMessage) => void;
}

/** Starts a server that admits everyone. */
export async function startServer(
  t: ExecutionContext,
  options: Partial<ServerOptions> = {},
): Promise<TestServer> {
  const messages = new Mailbox<Received>();
  const ends = new Mailbox<Ended>();
  const fatals: unknown[] = [];
  const testServer = {
    messages,
    ends,
    fatals,
    onMessage: (connection: Connection, message: ReceivedMessage): void => {
      if (message.kind === 'hello') server.admit(connection, message.trainerId);
      messages.put({ connection, message });
    },
  };
  const server = await CoordinatorServer.listen(
    {
      host: '127.0.0.1',
      port: 0,
      handshakeTimeoutMs: 5_000,
      heartbeatIntervalMs: 1_000,
      heartbeatTimeoutMs: 10_000,
      closeGraceMs: 200,
      logger: SILENT_LOGGER,
      ...options,
    },
    {
      onMessage: (connection, message) => testServer.onMessage(connection, message),
      onClose: (connection, code, reason) => ends.put({ connection, code, reason }),
      onFatal: (error) => fatals.push(error),
    },
  );
  t.teardown(() => server.close());
  return Object.assign(testServer, { server, url: server.url });
}

/** A raw trainer: a WebSocket that sends and receives messages. */
export interface RawTrainer {
  readonly webSocket: WebSocket;
  readonly messages: Mailbox<Message>;
  /** Code and text of the close frame. */
  readonly closed: Promise<{ readonly code: number; readonly reason: string }>;
  send(message: Message): void;
}

/** Connects a raw trainer; it says nothing by itself. */
export async function connectRaw(
  t: ExecutionContext,
  url: string,
  options: ClientOptions = {},
): Promise<RawTrainer> {
  const webSocket = new WebSocket(url, { perMessageDeflate: false, ...options });
  t.teardown(() => webSocket.terminate());
  const messages = new Mailbox<Message>();
  webSocket.on('message', (data) => messages.put(decodeEnvelope(data as Buffer, 'coordinator')));
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    webSocket.on('close', (code, reason) => resolve({ code, reason: reason.toString('utf8') }));
  });
  webSocket.on('error', () => {});
  await new Promise<void>((resolve, reject) => {
    webSocket.once('open', resolve);
    webSocket.once('error', reject);
  });
  return { webSocket, messages, closed, send: (message) => webSocket.send(encodeEnvelope(message)) };
}

/** A Link and a way to wait for its events. */
export interface TestLink {
  readonly link: Link;
  /** The next event. */
  next(): Promise<LinkEvent>;
  /** The next event of a type; those before it are dropped. */
  nextOf<Type extends LinkEvent['type']>(type: Type): Promise<Extract<LinkEvent, { type: Type }>>;
}

/** Opens a Link to `url`. */
export function openLink(t: ExecutionContext, url: string, options: Partial<LinkOptions> = {}): TestLink {
  const link = Link.open({ url, trainerId: 'a', logger: SILENT_LOGGER, ...options });
  t.teardown(() => link.close());
  const events = link.events();
  const next = async (): Promise<LinkEvent> => {
    const { value, done } = await events.next();
    if (done === true) throw new Error('the link has ended');
    return value;
  };
  return {
    link,
    next,
    async nextOf(type) {
      for (;;) {
        const event = await next();
        if (event.type === type) return event as Extract<LinkEvent, { type: typeof type }>;
      }
    },
  };
}

/** Waits for the next message of a kind; those before it are dropped. */
export async function expectMessage<Kind extends MessageKind>(
  messages: Mailbox<Received>,
  kind: Kind,
): Promise<{ connection: Connection; message: Extract<Message, { kind: Kind }> }> {
  for (;;) {
    const { connection, message } = await messages.take();
    if (message.kind === kind) return { connection, message: message as Extract<Message, { kind: Kind }> };
  }
}

/** A Welcome with a snapshot of one tensor of three numbers, and what brings it. */
export function snapshotFrames(sequence = 0, digest: Uint8Array = FIRST_DIGEST): readonly Message[] {
  const step = sequence;
  const tensors = [{ name: 'weights/w', shape: [3], codec: 'f32', totalBytes: 12 }] as const;
  const payload = new Uint8Array(Float32Array.from([1, 2, 3]).buffer);
  return [
    { ...WELCOME, snapshot: { step, sequence, tensors, digest: new Uint8Array(0), firstTensor: 0 } },
    {
      kind: 'part',
      stream: 'snapshot',
      step,
      round: 0,
      tensor: 0,
      codec: 'f32',
      offset: 0,
      totalBytes: 12,
      payload,
    },
    { kind: 'snapshotEnd', step, sequence, digest, tensors: [] },
  ];
}
