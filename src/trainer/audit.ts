/** What has left a trainer: every kind of message with its bytes, and what the last one of it said. Pure. */
import { decodeEnvelope } from '../protocol/envelope.ts';
import type { Message, MessageKind, StreamName } from '../protocol/messages.ts';

/** One kind of message. */
export interface AuditRow {
  /** Such as `contribution`, or `part of contribution`: a piece of a tensor. */
  readonly message: string;
  /** What messages of this kind hold, in words. */
  readonly holds: string;
  readonly count: number;
  /** Of the messages themselves, without what WebSocket, TLS and TCP put around them. */
  readonly bytes: number;
  /** All of the last one but the numbers of a tensor, as JSON. A join token is left out. */
  readonly last: string;
}

type Sent = Extract<
  MessageKind,
  | 'hello'
  | 'goodbye'
  | 'ready'
  | 'heartbeat'
  | 'sketch'
  | 'factor'
  | 'contribution'
  | 'stateHash'
  | 'evaluation'
  | 'snapshotEnd'
>;

const HOLDS = {
  hello: 'names of this trainer and of the run it wants, versions, which state it has, the join token',
  goodbye: 'why it leaves',
  ready: 'which state it has, what it computes on, its number of examples if the run asks for it',
  heartbeat: 'what it is doing in words, memory, speed',
  sketch: 'that its sketches of a refresh are complete, and how many loss targets are behind them',
  factor: 'that its factors of a refresh are complete',
  contribution:
    'how many loss targets are behind a contribution, its weight, the sum of the losses if it is told',
  stateHash: 'the SHA-256 of the weights that all trainers have',
  evaluation: 'loss, number and right answers on what is held out, if they are told',
  snapshotEnd: 'which tensors of a checkpoint were sent',
} as const satisfies Record<Sent, string>;

const PARTS = {
  contribution: 'compressed gradients, or how far the weights have moved in local steps',
  sketch: 'products of gradients with thin matrices, for new bases',
  factor: 'orthonormal factors of sums of sketches',
  snapshot:
    'the state that all trainers have, for a checkpoint, and what this one keeps of its gradients and moments',
} as const satisfies Partial<Record<StreamName, string>>;

/** Counts what leaves. */
export class Audit {
  readonly #rows = new Map<string, AuditRow>();

  /** A frame that was given to the socket. */
  note(frame: Uint8Array): void {
    const message = decodeEnvelope(frame, 'trainer');
    const name = message.kind === 'part' ? `part of ${message.stream}` : message.kind;
    const { count = 0, bytes = 0 } = this.#rows.get(name) ?? {};
    this.#rows.set(name, {
      message: name,
      holds: holdsOf(message),
      count: count + 1,
      bytes: bytes + frame.length,
      last: lastOf(message),
    });
  }

  /** In the order in which they first left. */
  get rows(): readonly AuditRow[] {
    return [...this.#rows.values()];
  }
}

function holdsOf(message: Message): string {
  const table: Readonly<Record<string, string>> = message.kind === 'part' ? PARTS : HOLDS;
  return table[message.kind === 'part' ? message.stream : message.kind] ?? '';
}

function lastOf(message: Message): string {
  const shown: Record<string, unknown> = { ...message };
  delete shown['kind'];
  if (message.kind === 'hello' && message.token !== '') shown['token'] = '(left out)';
  if (message.kind === 'part') shown['payload'] = `${message.payload.length} bytes`;
  if (message.kind === 'snapshotEnd') shown['tensors'] = `${message.tensors.length} tensors`;
  return JSON.stringify(shown, (_, value: unknown) =>
    value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value,
  );
}
