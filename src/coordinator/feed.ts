/**
 * Brings one trainer's state up to the journal's head: the snapshot if it needs one, then every later
 * record, read back from disk, until there is none left to send. From then on it is fed live. What the others are
 * sent goes first (feed-gate.ts).
 */
import type { Connection } from './connection.ts';
import type { FeedGate } from './feed-gate.ts';
import type { OpenCheckpoint } from './store/checkpoint.ts';
import type { Journal } from './store/journal.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { MAX_MEMBERS, MAX_PART_BYTES } from '../protocol/limits.ts';
import type { SnapshotHeader } from '../protocol/messages.ts';
import { partFrame } from '../protocol/part-frame.ts';

/** What a trainer is to be sent. */
export interface FeedPlan {
  /** Sent first when not null; closed at the end. */
  readonly snapshot: OpenCheckpoint | null;
  /** Of the snapshot: those before it are there. */
  readonly firstTensor: number;
  /** The first record to send. */
  readonly nextSequence: number;
}

/**
 * Sends everything and calls `onLive(sequence)` in the same turn in which nothing was left: the
 * caller sends the records after `sequence` itself.
 */
export async function feedTrainer(
  connection: Pick<Connection, 'sendBulk'>,
  plan: FeedPlan,
  journal: Pick<Journal, 'nextSequence' | 'readRecord'>,
  gate: Pick<FeedGate, 'pace'>,
  onLive: (sequence: number) => void,
): Promise<void> {
  const { snapshot } = plan;
  if (snapshot !== null) {
    try {
      await connection.sendBulk(gate.pace(snapshotFrames(snapshot, plan.firstTensor)));
    } finally {
      await snapshot.close();
    }
  }
  let next = plan.nextSequence;
  while (next < journal.nextSequence) await connection.sendBulk(gate.pace(journal.readRecord(next++)));
  onLive(next - 1);
}

/** What a Welcome says of the snapshot behind it. */
export function snapshotHeader(
  { step, run, tensors }: OpenCheckpoint,
  firstTensor = 0,
  trainerId: string | null = null,
  isGateway = false,
): SnapshotHeader {
  const { counted } = run;
  const all = isGateway ? countedIn(run) : null;
  return {
    ...(counted === undefined || trainerId === null ? {} : { countedStep: counted[trainerId] ?? 0 }),
    ...(all === null ? {} : { counted: all }),
    step,
    sequence: run.sequence,
    digest: digestOf(run),
    firstTensor,
    tensors: tensors.map(({ name, shape, dtype, totalBytes }) => ({ name, shape, codec: dtype, totalBytes })),
  };
}

/** The Parts of every tensor of the checkpoint from `firstTensor` on, and the SnapshotEnd. */
export async function* snapshotFrames(snapshot: OpenCheckpoint, firstTensor = 0): AsyncGenerator<Uint8Array> {
  const { step, tensors, run } = snapshot;
  for (const [index, tensor] of tensors.entries()) {
    if (index < firstTensor) continue;
    for (let offset = 0; offset < tensor.totalBytes; offset += MAX_PART_BYTES) {
      const header = { stream: 'snapshot', step, round: 0, tensor: index, codec: tensor.dtype } as const;
      const length = Math.min(MAX_PART_BYTES, tensor.totalBytes - offset);
      const { frame, payload } = partFrame({ ...header, offset, totalBytes: tensor.totalBytes }, length);
      await snapshot.readInto(index, offset, payload);
      yield frame;
    }
  }
  const end = { step, sequence: run.sequence, digest: digestOf(run), tensors: [] };
  yield encodeEnvelope({ kind: 'snapshotEnd', ...end });
}

/** Who was counted when, for a gateway, whose trainers may ask; null: not known, or more than a message takes. */
function countedIn({ counted, sequence }: OpenCheckpoint['run']): Readonly<Record<string, number>> | null {
  const known = counted ?? (sequence === 0 ? {} : null);
  return known === null || Object.keys(known).length > MAX_MEMBERS ? null : known;
}

function digestOf(run: OpenCheckpoint['run']): Uint8Array {
  return new Uint8Array(Buffer.from(run.digest, 'hex'));
}
