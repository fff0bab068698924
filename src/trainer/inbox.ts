/**
 * What comes in on one connection of a trainer, put together: Parts to tensors, tensors to snapshots
 * and records, records checked against the digest chain. No sockets and no clock.
 */
import { protocolError } from '../protocol/checks.ts';
import { isSameDigest, RecordDigest } from '../protocol/digest.ts';
import type {
  BasisRecord,
  CommitMessage,
  Message,
  PartMessage,
  SnapshotEndMessage,
  SnapshotHeader,
  StreamName,
  WelcomeMessage,
} from '../protocol/messages.ts';
import {
  PartAssembler,
  type AllocateBytes,
  type AssembledTensor,
  type PartVerdict,
  type TensorPlace,
} from '../protocol/parts.ts';
import { travels } from '../galore/slot.ts';
import {
  basisSize,
  payloadOfLength,
  rankOfBasis,
  ranksIn,
  sizesAt,
  type Ranks,
  type SlotSizes,
} from '../protocol/slot-sizes.ts';
import type { LinkMessage } from './link.ts';

/** The record a state includes last. */
export interface StateHead {
  readonly sequence: number;
  readonly digest: Uint8Array;
}

/** Something whole that the compute side can use. */
export type InboxItem =
  | { readonly type: 'tensor'; readonly tensor: AssembledTensor }
  | { readonly type: 'snapshotEnd'; readonly message: SnapshotEndMessage }
  | { readonly type: 'record'; readonly commit: CommitMessage; readonly tensors: readonly AssembledTensor[] }
  | { readonly type: 'message'; readonly message: LinkMessage };

interface OpenRecord {
  readonly stream: StreamName;
  readonly step: number;
  readonly digest: RecordDigest;
  readonly tensors: AssembledTensor[];
}

export class Inbox {
  /** At the configured ranks. */
  readonly #configured: readonly SlotSizes[];
  #ranks: Ranks;
  #sizes: readonly SlotSizes[];
  readonly #assembler: PartAssembler;
  /** What a snapshot must still bring; null when none is under way. */
  #snapshot: { readonly header: SnapshotHeader; readonly missing: Set<number> } | null;
  #head: StateHead | null;
  #record: OpenRecord | null = null;

  /**
   * @param head of the state at hand, @param ranks that refreshes have chosen up to it; both are ignored when
   * the Welcome announces a snapshot
   * @param sizes at the configured ranks
   * @param allocate where tensors are put together
   */
  constructor(
    welcome: WelcomeMessage,
    head: StateHead | null,
    sizes: readonly SlotSizes[],
    ranks: Ranks = new Map(),
    allocate?: AllocateBytes,
  ) {
    const header = welcome.snapshot;
    this.#configured = sizes;
    this.#ranks = header === null ? ranks : ranksIn(header.tensors, sizes);
    this.#sizes = sizesAt(sizes, this.#ranks);
    const missing = new Set(header?.tensors.keys());
    for (let tensor = 0; tensor < (header?.firstTensor ?? 0); tensor++) missing.delete(tensor);
    this.#snapshot = header === null ? null : { header, missing };
    this.#head = header === null ? head : null;
    this.#assembler = new PartAssembler((place, totalBytes) => this.#expect(place, totalBytes), allocate);
  }

  /** How many of the first tensors of the snapshot that is under way are here, whole; 0: there is none. */
  get snapshotTensors(): number {
    if (this.#snapshot === null) return 0;
    const { header, missing } = this.#snapshot;
    return Math.min(...missing, header.tensors.length);
  }

  /** The ranks that refreshes have chosen up to the last record. */
  get ranks(): Ranks {
    return this.#ranks;
  }

  /**
   * Takes the next message with the frame it came in; returns what it completes, or null.
   * @throws ProtocolError; with STATE_DIVERGED if a record does not continue the state at hand
   */
  accept(message: Message, frame: Uint8Array): InboxItem | null {
    switch (message.kind) {
      case 'part':
        return this.#acceptPart(message, frame);
      case 'snapshotEnd':
        return this.#acceptSnapshotEnd(message);
      case 'commit':
        return this.#acceptCommit(message);
      case 'updateWithdrawn':
        this.#withdraw(message.step);
        return null;
      case 'stepAssignment':
      case 'sketchRequest':
      case 'factorAssignment':
      case 'evaluationAssignment':
      case 'snapshotRequest':
      case 'stepRejected':
      case 'notice':
        return { type: 'message', message };
      default:
        throw protocolError('UNEXPECTED_MESSAGE', `${message.kind} after the Welcome`);
    }
  }

  #acceptPart(part: PartMessage, frame: Uint8Array): InboxItem | null {
    const isOfRecord = part.stream === 'update' || part.stream === 'basis';
    if (isOfRecord) this.#record ??= this.#beginRecord(part);
    const tensor = this.#assembler.accept(part);
    if (isOfRecord) {
      this.#record?.digest.addPartFrame(frame);
      if (tensor !== null) this.#record?.tensors.push(tensor);
      return null;
    }
    if (tensor === null) return null;
    if (tensor.stream === 'snapshot') this.#snapshot?.missing.delete(tensor.tensor);
    return { type: 'tensor', tensor };
  }

  #beginRecord({ stream, step }: PartMessage): OpenRecord {
    const head = this.#requireHead(`a Part of stream ${stream}`);
    return { stream, step, digest: new RecordDigest(head.digest, head.sequence + 1, step), tensors: [] };
  }

  /** Its Parts came as whole tensors, so that none is half there. */
  #withdraw(step: number): void {
    if (this.#record?.stream === 'update' && this.#record.step === step) this.#record = null;
  }

  #acceptSnapshotEnd(message: SnapshotEndMessage): InboxItem {
    const snapshot = this.#snapshot;
    if (snapshot === null) throw protocolError('UNEXPECTED_MESSAGE', 'SnapshotEnd without a snapshot');
    const { header, missing } = snapshot;
    const [firstMissing] = missing;
    if (firstMissing !== undefined) {
      const name = header.tensors[firstMissing]?.name ?? '';
      throw protocolError(
        'UNEXPECTED_MESSAGE',
        `SnapshotEnd before ${missing.size} tensors, such as ${name}`,
      );
    }
    if (message.step !== header.step || message.sequence !== header.sequence) {
      throw protocolError(
        'UNEXPECTED_MESSAGE',
        `SnapshotEnd of step ${message.step}, record ${message.sequence}; ` +
          `the Welcome announced step ${header.step}, record ${header.sequence}`,
      );
    }
    this.#snapshot = null;
    this.#head = { sequence: message.sequence, digest: message.digest.slice() };
    return { type: 'snapshotEnd', message };
  }

  #acceptCommit(commit: CommitMessage): InboxItem {
    const head = this.#requireHead('Commit');
    if (commit.sequence !== head.sequence + 1 || !isSameDigest(commit.previousDigest, head.digest)) {
      throw protocolError(
        'STATE_DIVERGED',
        `record ${commit.sequence} does not continue the state of record ${head.sequence}`,
      );
    }
    const record = this.#record;
    const tensors = record?.tensors ?? [];
    const refusal = this.#refusalOf(commit, record);
    if (refusal !== null) throw protocolError('UNEXPECTED_MESSAGE', `record ${commit.sequence}: ${refusal}`);
    const hash = record?.digest ?? new RecordDigest(head.digest, commit.sequence, commit.step);
    const digest = hash.finish();
    if (!isSameDigest(digest, commit.digest)) {
      throw protocolError('STATE_DIVERGED', `the digest of record ${commit.sequence} is wrong`);
    }
    this.#record = null;
    this.#head = { sequence: commit.sequence, digest };
    if (commit.record.type === 'basis') this.#follow(commit.record);
    return { type: 'record', commit, tensors };
  }

  /** From the record on its slots have these ranks. */
  #follow({ slots, ranks }: BasisRecord): void {
    if (ranks.length === 0) return;
    this.#ranks = new Map([...this.#ranks, ...slots.map((slot, i) => [slot, ranks[i] ?? 0] as const)]);
    this.#sizes = sizesAt(this.#configured, this.#ranks);
  }

  /** Why the tensors before a Commit are not those it speaks of, or null. */
  #refusalOf({ step, record: kind }: CommitMessage, record: OpenRecord | null): string | null {
    if (record !== null && (record.stream !== kind.type || record.step !== step)) {
      return `Commit of ${kind.type}, step ${step}, after Parts of ${record.stream}, step ${record.step}`;
    }
    const present = new Set(record?.tensors.map(({ tensor }) => tensor));
    const announced = announcedBy(kind, this.#sizes);
    const missing = announced.find((slot) => !present.has(slot));
    if (missing !== undefined) return `slot ${missing} is missing`;
    if (present.size !== announced.length) return `${present.size} slots instead of ${announced.length}`;
    return kind.type === 'basis' ? this.#rankFault(kind, record?.tensors ?? []) : null;
  }

  /** With adaptive ranks the Commit says what the lengths of the bases say, too. */
  #rankFault({ slots, ranks }: BasisRecord, tensors: readonly AssembledTensor[]): string | null {
    for (const { tensor, bytes } of tensors) {
      const adaptive = this.#sizes[tensor]?.adaptive;
      const stated = ranks[slots.indexOf(tensor)];
      const rank = adaptive && rankOfBasis(adaptive, bytes.length);
      if (rank !== stated)
        return `slot ${tensor} has rank ${rank ?? 'as configured'}, not ${stated ?? 'as before'}`;
    }
    return null;
  }

  #requireHead(what: string): StateHead {
    if (this.#head !== null) return this.#head;
    throw protocolError('UNEXPECTED_MESSAGE', `${what} before there is a state it could apply to`);
  }

  #expect({ stream, step, round, tensor }: TensorPlace, totalBytes: number): PartVerdict {
    if (stream === 'snapshot') return this.#expectSnapshot(step, tensor);
    const sizes = this.#sizes[tensor];
    if (sizes === undefined) return `there is no slot ${tensor}; there are ${this.#sizes.length}`;
    if (stream === 'update' || stream === 'basis') {
      const record = this.#record;
      if (record !== null && (record.stream !== stream || record.step !== step)) {
        return `a record of ${record.stream}, step ${record.step}, is not complete`;
      }
      if (record?.tensors.some((earlier) => earlier.tensor === tensor) === true) return 'it came before';
      if (stream === 'update') return updateSize(sizes, step, totalBytes);
    }
    if (stream === 'basis') return basisSize(sizes, totalBytes);
    return sizes.sketches[round - 1] ?? 'the slot is not projected, or there is no such round';
  }

  #expectSnapshot(step: number, tensor: number): PartVerdict {
    if (this.#snapshot === null) return 'no snapshot was announced';
    const { header, missing } = this.#snapshot;
    if (step !== header.step) return `the snapshot is of step ${header.step}`;
    const info = header.tensors[tensor];
    if (info === undefined) return `the snapshot has ${header.tensors.length} tensors`;
    return missing.has(tensor) ? info : 'it came before';
  }
}

/** What a slot's tensor of an update must be. */
function updateSize(sizes: SlotSizes, step: number, totalBytes: number): PartVerdict {
  return travels(sizes.slot) ? payloadOfLength(sizes, 'update', step, totalBytes) : 'the slot is frozen';
}

/** The slots whose tensors come with a record. */
function announcedBy(record: CommitMessage['record'], sizes: readonly SlotSizes[]): readonly number[] {
  if (record.type === 'update') {
    return sizes.filter(({ slot }) => travels(slot)).map(({ slot }) => slot.index);
  }
  return record.isGenerated ? [] : record.slots;
}
