/**
 * The messages as plain values, and who may send which. Pure. The bytes are proto/galore.proto's and
 * made in envelope.ts; when each is sent and what it means is in docs/protocol.md.
 */
import type { CodecName } from '../galore/codec/tensor-codec.ts';
import type { StateDtype } from '../galore/optimizer/rule-state.ts';
import {
  MAX_FRAME_BYTES,
  MAX_HELLO_BYTES,
  MAX_LIST_MESSAGE_BYTES,
  MAX_SMALL_MESSAGE_BYTES,
} from './limits.ts';

/** The two ends of a connection. */
export type Peer = 'trainer' | 'coordinator';

/** What a Part belongs to. */
export type StreamName = 'snapshot' | 'sketch' | 'sketchSum' | 'factor' | 'contribution' | 'update' | 'basis';

/** How a tensor's numbers are written. */
export type { CodecName };

/** How a tensor of a snapshot is written: by its dtype in the state table. */
export type StateCodec = StateDtype;

/** How a tensor of any stream is written. */
export type PartCodec = CodecName | StateCodec;

/** One tensor of a snapshot. */
export interface TensorInfo {
  readonly name: string;
  readonly shape: readonly number[];
  readonly codec: StateCodec;
  readonly totalBytes: number;
}

export interface SnapshotHeader {
  readonly step: number;
  readonly sequence: number;
  readonly tensors: readonly TensorInfo[];
  /** Of the record `sequence`: 32 bytes; empty: it cannot be continued on another connection. */
  readonly digest: Uint8Array;
  /** Tensors before this one are not sent: the trainer has them. */
  readonly firstTensor: number;
  /** The last step up to `step` that counted this trainer, 0: none did; left out: not known. */
  readonly countedStep?: number;
  /** To a gateway: the same of every trainer that was ever counted; left out: not known, or it is none. */
  readonly counted?: Readonly<Record<string, number>>;
}

/** What a trainer has of a snapshot whose end it has not seen. */
export interface SnapshotProgress {
  readonly runId: string;
  readonly sequence: number;
  readonly digest: Uint8Array; // 32 bytes
  /** The first so many of its tensors are here, whole. */
  readonly tensors: number;
}

/** Sequences to compute on. */
export interface Sequences {
  readonly positions: readonly number[];
  /** Tokens a sequence, one more than the inputs: labels are shifted by one. With `labelled` the inputs. */
  readonly length: number;
  readonly tokens: Int32Array; // [positions.length, length]
  /** 1 where the label counts; empty: all count. */
  readonly mask: Uint8Array; // [positions.length, length - 1]
  /** Of sequences that are to be classified: then `length` is that of the inputs, and there is no mask. */
  readonly labelled?: LabelledRows;
}

/** What sequences that are to be classified have instead of labels for each token. */
export interface LabelledRows {
  /** The label of each sequence, an index into `task.labels`. */
  readonly classes: Int32Array; // [positions.length]
  /** The tokens of each, behind which there is padding. */
  readonly lengths: Int32Array; // [positions.length]
}

export interface Member {
  readonly trainerId: string;
  readonly tokens: number;
  readonly positions: readonly number[];
  /** Of its contribution in the sum, where that is not its tokens. */
  readonly weight?: number;
  /** Through which its contribution came; left out: it came from the trainer itself. */
  readonly gateway?: string;
}

/** Where the data order stands after a step. */
export interface CursorInfo {
  readonly next: number;
  readonly returned: readonly number[];
}

/** The new bases of some slots. */
export interface BasisRecord {
  readonly type: 'basis';
  readonly slots: readonly number[];
  readonly keptSlots: readonly number[];
  /** No Parts came: every trainer makes the bases of `slots` from the run's seed. */
  readonly isGenerated: boolean;
  /** With adaptive ranks the new rank of each of `slots`, else empty. */
  readonly ranks: readonly number[];
  /** How much of its old basis each of `slots` keeps, 0 to 1, -1 without an old one; empty: not measured. */
  readonly similarities: readonly number[];
}

/** The summed contribution of a step. */
export interface UpdateRecord {
  readonly type: 'update';
  readonly learningRate: number;
  readonly tokens: number;
  /** null: every member keeps its losses to itself. */
  readonly lossSum: number | null;
  readonly members: readonly Member[];
  readonly cursor: CursorInfo;
  readonly gradientNorm: number;
  /** Norm of the sum of each slot with a basis, ascending by slot; empty: not told. */
  readonly slotNorms: readonly number[];
}

export interface HelloMessage {
  readonly kind: 'hello';
  readonly protocolVersions: readonly number[];
  readonly trainerId: string;
  readonly runName: string;
  readonly token: string;
  readonly software: string;
  /** Empty: it holds no state, and sequence and digest mean nothing. */
  readonly runId: string;
  readonly sequence: number;
  readonly digest: Uint8Array; // 32 bytes with a runId, else empty
  readonly schemaHash: Uint8Array; // 32 bytes or empty
  /** Every codec of numbers it can read and write. */
  readonly codecs: readonly CodecName[];
  /** Null: nothing of a snapshot. */
  readonly snapshot: SnapshotProgress | null;
  /** It takes trainers of its own. */
  readonly isGateway?: true;
}

export interface WelcomeMessage {
  readonly kind: 'welcome';
  readonly protocolVersion: number;
  readonly runId: string;
  readonly runName: string;
  readonly configJson: string;
  readonly modelJson: string;
  readonly schemaHash: Uint8Array; // 32 bytes
  readonly heartbeatIntervalMs: number;
  readonly heartbeatTimeoutMs: number;
  /** null: the trainer's own state is good. */
  readonly snapshot: SnapshotHeader | null;
  /** With data.local, where every trainer reads its own data. */
  readonly site?: SiteFacts;
  /** Name and version of the coordinator; left out: it does not say. */
  readonly software?: string;
}

/** What a site needs to read its own data as the run does, and to see that it is the run it means. */
export interface SiteFacts {
  /** gzip of tokenizer.json; empty: longer than a message, the site must have it. */
  readonly tokenizer: Uint8Array;
  /** Of tokenizer.json, 32 bytes; empty: the bytes themselves are the tokens. */
  readonly tokenizerSha256: Uint8Array;
  /** The hash of the model folder that the run began with, 32 bytes; empty: it began with none. */
  readonly baseSha256: Uint8Array;
}

export interface GoodbyeMessage {
  readonly kind: 'goodbye';
  readonly code: number;
  readonly reason: string;
}

export interface ReadyMessage {
  readonly kind: 'ready';
  readonly sequence: number;
  readonly device: string;
  /** With sharding by examples: those of the site. */
  readonly examples?: number;
}

export interface HeartbeatMessage {
  readonly kind: 'heartbeat';
  readonly activity: string;
  readonly residentBytes: number;
  readonly tensorCount: number;
  readonly tokensPerSecond: number;
}

export interface NoticeMessage {
  readonly kind: 'notice';
  readonly text: string;
}

export interface PartMessage {
  readonly kind: 'part';
  readonly stream: StreamName;
  readonly step: number;
  /** From 1 for sketch, sketchSum and factor; 0 elsewhere. */
  readonly round: number;
  readonly tensor: number;
  /** Of stream snapshot a StateCodec, of all others a CodecName. */
  readonly codec: PartCodec;
  readonly offset: number;
  readonly totalBytes: number;
  /** A view into the frame it was decoded from, at any alignment. */
  readonly payload: Uint8Array;
}

export interface StepAssignmentMessage {
  readonly kind: 'stepAssignment';
  readonly step: number;
  readonly learningRate: number;
  readonly seed: number;
  /** null: the trainer takes its own, `localExamples` each optimizer step. */
  readonly sequences: Sequences | null;
  readonly localExamples: number;
  readonly refreshSlots: readonly number[];
  /** Slots that are likely to get a new basis in the next step: what feedback kept of them is sent as f32. */
  readonly flushSlots: readonly number[];
  readonly deadlineMs: number;
}

export interface SketchRequestMessage {
  readonly kind: 'sketchRequest';
  readonly step: number;
  readonly round: number;
  readonly slots: readonly number[];
  readonly seed: number;
}

export interface SketchMessage {
  readonly kind: 'sketch';
  readonly step: number;
  readonly round: number;
  readonly tokens: number;
}

export interface FactorAssignmentMessage {
  readonly kind: 'factorAssignment';
  readonly step: number;
  readonly round: number;
  readonly slots: readonly number[];
  readonly isFinal: boolean;
}

export interface FactorMessage {
  readonly kind: 'factor';
  readonly step: number;
  readonly round: number;
  readonly slots: readonly number[];
  readonly zeroSlots: readonly number[];
  /** Of `slots`, see BasisRecord; empty: not measured. */
  readonly similarities: readonly number[];
}

export interface ContributionMessage {
  readonly kind: 'contribution';
  readonly step: number;
  readonly tokens: number;
  readonly lossSum: number;
  /** CRC-32C of the payload bytes of the step's contribution Parts, in the order sent; 0 without any. */
  readonly checksum: number;
  /** With data.local and weighting by examples or tokens: those of the site. */
  readonly weight?: number;
  /** The site keeps its losses to itself. */
  readonly isLossWithheld?: true;
  /** Of a gateway: whose contributions are summed in it. */
  readonly members?: readonly Member[];
}

export interface CommitMessage {
  readonly kind: 'commit';
  readonly sequence: number;
  readonly step: number;
  readonly previousDigest: Uint8Array; // 32 bytes
  readonly digest: Uint8Array; // 32 bytes
  readonly record: BasisRecord | UpdateRecord;
}

export interface StateHashMessage {
  readonly kind: 'stateHash';
  readonly step: number;
  readonly weightsSha256: Uint8Array; // 32 bytes
}

export interface EvaluationAssignmentMessage {
  readonly kind: 'evaluationAssignment';
  readonly step: number;
  /** null: the trainer's own held-out part. */
  readonly sequences: Sequences | null;
}

export interface EvaluationMessage {
  readonly kind: 'evaluation';
  readonly step: number;
  readonly lossSum: number;
  readonly tokens: number;
  /** Of sequences that were classified: how many got their label. */
  readonly correct?: number;
  /** The site keeps its losses to itself. */
  readonly isLossWithheld?: true;
}

export interface SnapshotRequestMessage {
  readonly kind: 'snapshotRequest';
  readonly step: number;
  readonly sequence: number;
  /** Another trainer sends what all share. */
  readonly isLocalOnly: boolean;
}

export interface SnapshotEndMessage {
  readonly kind: 'snapshotEnd';
  readonly step: number;
  readonly sequence: number;
  readonly digest: Uint8Array; // 32 bytes from the coordinator, empty from a trainer
  readonly tensors: readonly TensorInfo[]; // from a trainer: what was sent
}

export interface StepRejectedMessage {
  readonly kind: 'stepRejected';
  readonly step: number;
  readonly reason: string;
}

export interface UpdateWithdrawnMessage {
  readonly kind: 'updateWithdrawn';
  readonly step: number;
}

/** Of a gateway: how many trainers it would share work among. */
export interface CapacityMessage {
  readonly kind: 'capacity';
  readonly trainers: number; // at least 1
}

/** Any message of the protocol. */
export type Message =
  | HelloMessage
  | WelcomeMessage
  | GoodbyeMessage
  | ReadyMessage
  | HeartbeatMessage
  | NoticeMessage
  | PartMessage
  | StepAssignmentMessage
  | SketchRequestMessage
  | SketchMessage
  | FactorAssignmentMessage
  | FactorMessage
  | ContributionMessage
  | CommitMessage
  | StateHashMessage
  | EvaluationAssignmentMessage
  | EvaluationMessage
  | SnapshotRequestMessage
  | SnapshotEndMessage
  | StepRejectedMessage
  | UpdateWithdrawnMessage
  | CapacityMessage;

/** Name of a message: that of its field in the Envelope, in camel case. */
export type MessageKind = Message['kind'];

/** Who may send a message, whether it may go ahead of messages and Parts queued before it, and how long it may be. */
export interface MessageRule {
  readonly senders: readonly Peer[];
  readonly mayOvertake: boolean;
  /** Of the whole frame. */
  readonly maxBytes: number;
}

const BOTH = ['trainer', 'coordinator'] as const;
const TRAINER = ['trainer'] as const;
const COORDINATOR = ['coordinator'] as const;

/**
 * The direction table. A message that may not overtake arrives after everything its sender queued
 * before it; the only other exception is a trainer's snapshot (Parts and SnapshotEnd), which yields
 * to all its other messages.
 */
export const MESSAGE_RULES = {
  hello: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_HELLO_BYTES },
  welcome: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  goodbye: { senders: BOTH, mayOvertake: true, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  ready: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  heartbeat: { senders: TRAINER, mayOvertake: true, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  notice: { senders: COORDINATOR, mayOvertake: true, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  part: { senders: BOTH, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  stepAssignment: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  sketchRequest: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_LIST_MESSAGE_BYTES },
  sketch: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  factorAssignment: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_LIST_MESSAGE_BYTES },
  factor: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_LIST_MESSAGE_BYTES },
  contribution: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  commit: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  stateHash: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  evaluationAssignment: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  evaluation: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  snapshotRequest: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  snapshotEnd: { senders: BOTH, mayOvertake: false, maxBytes: MAX_FRAME_BYTES },
  stepRejected: { senders: COORDINATOR, mayOvertake: true, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  updateWithdrawn: { senders: COORDINATOR, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
  capacity: { senders: TRAINER, mayOvertake: false, maxBytes: MAX_SMALL_MESSAGE_BYTES },
} as const satisfies Record<MessageKind, MessageRule>;

/** Who may send Parts of a stream. */
export const STREAM_SENDERS = {
  snapshot: BOTH,
  sketch: TRAINER,
  sketchSum: COORDINATOR,
  factor: BOTH,
  contribution: TRAINER,
  update: COORDINATOR,
  basis: COORDINATOR,
} as const satisfies Record<StreamName, readonly Peer[]>;
