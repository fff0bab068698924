/**
 * The coordinator's state, the facts that change it and the commands it gives. Types only; the rules
 * are in advance.ts and the files beside it. No tensor, socket, file or clock appears here: large
 * arrays stay in the shell and are spoken of by step, round and trainer id.
 */
import type { CloseReason } from '../../protocol/close-codes.ts';
import type { ById } from './by-id.ts';
import type { Outlier } from './outliers.ts';
import type { BasisFact, SlotNorm } from './refresh-schedule.ts';

/** When slots are refreshed. */
export interface GapPlan {
  readonly updateProjGap: number; // T, in steps
  readonly isStaggered: boolean;
  /** method.refresh.lazy_threshold and converged_ratio; null: not used. */
  readonly lazyThreshold: number | null;
  readonly convergedRatio: number | null;
}

/** What is done about a norm beyond `factor` times the median of the step's trainers (outliers.ts). */
export interface OutlierPlan {
  readonly action: 'clip' | 'reject';
  readonly factor: number; // above 1
}

/** What never changes during a run. Times in milliseconds, batch in sequences. */
export interface RunPlan extends GapPlan {
  readonly totalSteps: number;
  readonly startTrainers: number;
  readonly minTrainers: number;
  readonly maxTrainers: number;
  readonly stepDeadlineMs: number; // 0: no deadline
  /** As configured: how many trainers, the share of them ("75%"), or all. See step-policy.ts. */
  readonly quorum: number | string;
  /** How long a step waits for the others once a quorum has answered. */
  readonly graceMs: number;
  readonly heartbeatTimeoutMs: number;
  /** Of the ready trainers so large a share takes part in a step (participation.ts); null: all. */
  readonly participation: { readonly share: number; readonly seed: number } | null;
  /** 0 where every trainer computes on data of its own. */
  readonly batchSequences: number;
  /** Every trainer computes on data of its own: a step shares out no positions, an evaluation no sequences. */
  readonly isLocal: boolean;
  /** With `isLocal`: the trainer's own examples of an optimizer step, of each trainer in the mean; else 0. */
  readonly localExamples: number;
  /** By what shares are sized (pace.ts). */
  readonly sharding: 'equal' | 'adaptive' | 'examples';
  readonly projectedSlots: readonly number[]; // slot indices that are refreshed
  readonly refreshRounds: number; // 2 q + 1; 1 for exact; 0: bases are generated
  /** Refreshes after the first, which has no basis to start from, begin with round 2. */
  readonly isWarmStart: boolean;
  readonly evaluationEvery: number; // 0: only at the end
  readonly evaluationSequences: number; // 0: there is no held-out data
  readonly checkpointEvery: number; // 0: only at the end
  readonly hashEvery: number; // 0: never
  /** Trainers keep something of their gradients (trainer/local-states.ts), which checkpoints hold too. */
  readonly hasLocalState: boolean;
  /** null: all are accepted. */
  readonly outliers: OutlierPlan | null;
}

/** Where the data order stands. Positions count from 0 over all epochs. */
export interface Cursor {
  readonly next: number;
  readonly returned: readonly number[]; // ascending
}

/** What the journal says of one slot's bases. */
export interface SlotBasis {
  readonly slot: number;
  /** Null: as configured. */
  readonly rank: number | null;
  /** The step of the newest one. */
  readonly refreshedStep: number;
  /** Steps until the next at the latest. */
  readonly gap: number;
  /** Shares that the last new bases kept of the ones before, newest last. */
  readonly similarities: readonly number[];
  /** Norms of the slot's summed contribution, the first and the last with this basis; null: not told. */
  readonly firstNorm: number | null;
  readonly lastNorm: number | null;
}

/** A trainer that has passed the handshake. */
export interface TrainerState {
  readonly trainerId: string;
  /** loading: receiving state; ready: takes part; lagging: missed a deadline, not assigned until heard from. */
  readonly status: 'loading' | 'ready' | 'lagging';
  readonly lastSeenMs: number;
  /** Records in the journal when it joined: it is ready once it has applied these. */
  readonly joinedSequence: number;
  /** Since when it is lagging; null: it is not. */
  readonly laggingSinceMs: number | null;
  /** The assignment that it has not answered at all; null: there is none, or its time was up. */
  readonly asked: { readonly step: number; readonly sequences: number; readonly atMs: number } | null;
  /** Its last answers, newest last (see pace.ts). */
  readonly observed: readonly Observation[];
  /** Of a gateway: how many trainers share its work; left out: 1. */
  readonly capacity?: number;
  /** Of a site that has told so: how many it trains on. */
  readonly examples?: number;
}

/** How long a trainer took from its assignment to its first answer. */
export interface Observation {
  readonly step: number;
  readonly sequences: number; // at least 1
  readonly elapsedMs: number;
}

/** The sequences one trainer works on in a step. */
export interface Shard {
  readonly trainerId: string;
  readonly positions: readonly number[];
  /** Of its own data in each optimizer step, in place of positions; left out: none. */
  readonly localExamples?: number;
}

/** A contribution that has arrived whole. */
export interface Received {
  readonly trainerId: string;
  readonly tokens: number;
  /** null: it keeps its losses to itself. */
  readonly lossSum: number | null;
  /** What it counts by in the sum; left out: its tokens. */
  readonly weight?: number;
  /** Of all its numbers, for its tokens; left out: not told. */
  readonly norm?: number;
  /** What its numbers are multiplied by; left out: 1. */
  readonly scale?: number;
}

/** What a trainer measured of the held-out data. */
export interface EvaluationPart {
  readonly trainerId: string;
  readonly tokens: number;
  readonly lossSum: number;
  /** Sequences that got their label, where they were classified. */
  readonly correct?: number;
}

/** Slots whose factorisation one trainer does. */
export interface FactorJob {
  readonly trainerId: string;
  readonly slots: readonly number[];
  readonly isDone: boolean;
}

/** Who was given work for a step, and who was not waited for. */
export interface Attendance {
  readonly step: number;
  readonly assigned: readonly string[]; // ascending, as are those of them who were late
  readonly late: readonly string[];
  /** From the first answer to the last that was waited for, over the rounds that are over. */
  readonly waitMs: number;
  /** When the first answer of this round came. */
  readonly firstAnswerMs: number | null;
}

/** The disk has no room for what is to be written (see pause.ts). */
export interface Pause {
  /** In words, with the path. */
  readonly reason: string;
  readonly sinceMs: number;
  /** That have failed. */
  readonly tries: number;
  /** When the next one is due; null: it is under way. */
  readonly retryAtMs: number | null;
}

/** What the run is doing. Each phase carries only what it has. */
export type Phase =
  /** Too few trainers to go on. After a step without a single token no other is tried before `notBeforeMs`. */
  | { readonly phase: 'waiting'; readonly notBeforeMs: number | null }
  /** A refresh round: sketches are coming in. */
  | {
      readonly phase: 'sketching';
      readonly step: number;
      readonly round: number; // from 1
      readonly slots: readonly number[];
      readonly shards: readonly Shard[];
      readonly received: ById<Received>;
      readonly deadlineMs: number | null;
    }
  /** The summed sketches are being factorised on trainers. */
  | {
      readonly phase: 'factorising';
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly shards: readonly Shard[];
      readonly jobs: readonly FactorJob[];
      readonly deadlineMs: number | null;
    }
  /** Contributions are coming in. */
  | {
      readonly phase: 'collecting';
      readonly step: number;
      readonly shards: readonly Shard[];
      readonly received: ById<Received>;
      readonly deadlineMs: number | null;
    }
  /** A record is being summed, journalled and synced. */
  | {
      readonly phase: 'committing';
      readonly step: number;
      readonly kind: 'basis' | 'update';
      readonly shards: readonly Shard[];
      readonly received: readonly Received[];
      readonly cursor: Cursor; // where the data order stands once the record is on disk
      readonly pause?: Pause;
    }
  /** Trainers measure the held-out loss. */
  | {
      readonly phase: 'evaluating';
      readonly step: number;
      readonly shards: readonly Shard[]; // parts not yet answered; positions are held-out sequence numbers
      readonly received: readonly EvaluationPart[];
      readonly deadlineMs: number | null;
    }
  /** The last step is done or a stop was asked for; a checkpoint is being made. */
  | {
      readonly phase: 'finishing';
      readonly outcome: Outcome;
      readonly tried: readonly string[]; // trainers asked for the last checkpoint, in this order
      readonly pause?: Pause;
    }
  /** Nothing more will happen. */
  | { readonly phase: 'finished'; readonly outcome: Outcome };

/** How a run ended: all steps done, or stopped on request (it can be resumed). */
export type Outcome = 'completed' | 'stopped';

/** A checkpoint under way beside the steps. */
export interface CheckpointJob {
  readonly step: number;
  /** Who sends the state that all share. */
  readonly trainerId: string;
  readonly status: 'requested' | 'writing';
  /** Those asked whose upload has not ended, ascending: the one above and, with local state, all who were there. */
  readonly awaited: readonly string[];
  /** Those whose upload has ended, ascending. */
  readonly received: readonly string[];
  /** When it was asked for, or when the last piece of it arrived. */
  readonly progressedMs: number;
}

/** A hash of the weights after a step that all who told one told alike. */
export interface AgreedHash {
  readonly step: number;
  readonly weightsSha256: string;
  readonly trainers: number;
}

/** What a trainer says the hash of its weights is. */
export interface HashReport {
  readonly trainerId: string;
  readonly weightsSha256: string;
}

/** Results of one trainer that were refused. */
export interface Refusal {
  readonly trainerId: string;
  readonly count: number;
  /** Of the last one, in words. */
  readonly reason: string;
}

/** Everything the coordinator knows. */
export interface RunState {
  readonly plan: RunPlan;
  readonly nowMs: number;
  /** Committed steps. */
  readonly step: number;
  /** Records in the journal. */
  readonly sequence: number;
  /** The step whose new bases are committed though its update may not be; 0: none. */
  readonly refreshedStep: number;
  /** What is known of each slot's bases, ascending by slot; none for a slot that never had one. */
  readonly bases: readonly SlotBasis[];
  readonly cursor: Cursor;
  /** Ascending trainer id. */
  readonly trainers: ById<TrainerState>;
  readonly phase: Phase;
  readonly checkpoint: CheckpointJob | null;
  /** Step of the newest checkpoint on disk. */
  readonly checkpointedStep: number;
  /** A checkpoint is owed as soon as a trainer can give it. */
  readonly isCheckpointDue: boolean;
  /** How often the step after `step` was begun and abandoned. */
  readonly attempts: number;
  /** Set once a stop was asked for. */
  readonly isStopping: boolean;
  /** Set once a stop was asked for again: nothing is waited for but the record being written. */
  readonly isHurried: boolean;
  /** True once startTrainers were ready together, or a resumed run has gone on without some of them. */
  readonly hasStarted: boolean;
  /** The journal was not empty when the process started. */
  readonly isResumed: boolean;
  /** When a resumed run goes on with minTrainers, for there are so many; null: there are not. */
  readonly resumeAtMs: number | null;
  /** Of the last step that was begun. */
  readonly attendance: Attendance;
  /** Weight hashes reported for the last step that asked for them; `expected` had the step's record sent live. */
  readonly hashes: {
    readonly step: number;
    readonly expected: readonly string[];
    readonly byTrainer: readonly HashReport[]; // ascending trainer id
  } | null;
  /** Of the hashes as they were when the newest update was announced; null: they differed, or nobody was asked. */
  readonly agreed: AgreedHash | null;
  /** At the last comparison that came to anything there was no majority, and all were made to begin anew. */
  readonly hasTied: boolean;
  /** Results refused since the last committed step, by trainer (see refusals.ts). */
  readonly refusals: readonly Refusal[];
}

/** Facts, in the past tense. Every one carries the time it was seen. */
export type Event = { readonly nowMs: number } &
  /** The handshake passed; state is on its way to the trainer. A connection with the same id was replaced. */
  (
    | { readonly type: 'trainerJoined'; readonly trainerId: string }
    /** It says that it has applied everything up to `sequence`. May come several times while it catches up. */
    | {
        readonly type: 'trainerReady';
        readonly trainerId: string;
        readonly sequence: number;
        /** Of a site that tells so: how many it trains on. */
        readonly examples?: number;
      }
    /** A gateway says how many trainers it would share work among, from now on. */
    | { readonly type: 'capacityTold'; readonly trainerId: string; readonly trainers: number }
    /** A heartbeat or any other sign of life. */
    | { readonly type: 'trainerSeen'; readonly trainerId: string }
    /** Its connection ended. */
    | {
        readonly type: 'trainerLost';
        readonly trainerId: string;
        readonly reason: string;
        /** For a result that was refused (INVALID_CONTRIBUTION): `reason` says what was wrong with it. */
        readonly isRefused?: boolean;
      }
    | {
        readonly type: 'sketchReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly round: number;
        readonly tokens: number;
        readonly norm?: number;
      }
    /** All factors of a job arrived and passed the shell's checks. */
    | {
        readonly type: 'factorReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly round: number;
        readonly slots: readonly number[];
      }
    | {
        readonly type: 'contributionReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly tokens: number;
        readonly lossSum: number | null;
        /** If that is not its tokens. */
        readonly weight?: number;
        /** Of the numbers, if the run judges by it. */
        readonly norm?: number;
        /** From a gateway: the positions that are in it; the others come back. */
        readonly used?: readonly number[];
      }
    /** The record is on disk. */
    | {
        readonly type: 'recordCommitted';
        readonly step: number;
        readonly kind: 'basis' | 'update';
        readonly sequence: number;
        /** Of a basis record, what it says of each of its slots. */
        readonly bases?: readonly BasisFact[];
        /** Of an update record, if the run needs them. */
        readonly norms?: readonly SlotNorm[];
      }
    /** There was no room for the record; nothing of it is on disk. */
    | {
        readonly type: 'recordFailed';
        readonly step: number;
        readonly kind: 'basis' | 'update';
        readonly sequence: number;
        readonly reason: string;
      }
    | {
        readonly type: 'evaluationReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly tokens: number;
        readonly lossSum: number;
        /** Sequences that got their label, where they were classified. */
        readonly correct?: number;
      }
    | {
        readonly type: 'stateHashReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly weightsSha256: string;
      }
    /** A piece of the trainer's state arrived (about once a second is enough). */
    | { readonly type: 'snapshotProgressed'; readonly trainerId: string; readonly step: number }
    /** All that the trainer was asked for arrived. */
    | { readonly type: 'snapshotReceived'; readonly trainerId: string; readonly step: number }
    | { readonly type: 'checkpointWritten'; readonly step: number }
    | {
        readonly type: 'checkpointFailed';
        readonly step: number;
        readonly reason: string;
        /** There was no room for it, but there may be. */
        readonly isDiskFull?: boolean;
      }
    /** Ctrl-C, or the operator. */
    | { readonly type: 'stopRequested' }
    | { readonly type: 'ticked' }
  );

/** Commands, in the imperative, carried out by the shell in this order. */
export type Effect =
  | {
      readonly type: 'assignStep';
      readonly trainerId: string;
      readonly step: number;
      readonly positions: readonly number[];
      readonly localExamples?: number; // see Shard
      readonly refreshSlots: readonly number[];
      readonly waitMs: number; // how long the coordinator will wait from now; 0: no limit
      readonly capacity?: number; // of a gateway
    }
  /** The trainer is ready and has no part in the step: say so to it. */
  | { readonly type: 'passOver'; readonly trainerId: string; readonly step: number }
  /** To every member of the step. Before it the shell sends the factors of the round before. */
  | {
      readonly type: 'requestSketches';
      readonly trainerIds: readonly string[];
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly jobs: readonly FactorJob[]; // whose factors of the round before count; none in round 1
    }
  /** Sum the sketches of these trainers, weighted by tokens, and send each job its slots. */
  | {
      readonly type: 'sumSketches';
      readonly step: number;
      readonly round: number;
      readonly weights: readonly Received[];
    }
  | {
      readonly type: 'assignFactors';
      readonly trainerId: string;
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly isFinal: boolean;
    }
  /** Journal the bases of the last round, or that each trainer makes them; report as for commitUpdate. */
  | {
      readonly type: 'commitBases';
      readonly step: number;
      readonly slots: readonly number[];
      readonly jobs: readonly FactorJob[]; // whose factors count; none: the bases are generated
    }
  /** Sum, encode, journal, sync; report recordCommitted, or recordFailed if there is no room. */
  | {
      readonly type: 'commitUpdate';
      readonly step: number;
      readonly received: readonly Received[];
      readonly shards: readonly Shard[];
      readonly cursor: Cursor;
      readonly attendance: Pick<Attendance, 'assigned' | 'late' | 'waitMs'>; // for people
      /** Whose norm was too large; left out: nobody's. */
      readonly outliers?: readonly Outlier[];
    }
  /** Journal the record again for which there was no room; report as for commitUpdate. */
  | { readonly type: 'retryRecord'; readonly sequence: number }
  /**
   * Bring every trainer that is not loading up to this record (those that are loading are fed from the
   * journal). One that has just become ready may lack more than this one.
   */
  | { readonly type: 'announceRecord'; readonly sequence: number }
  /** Forget what was staged for the step (sketches, factors, contributions). */
  | { readonly type: 'discardStaged'; readonly step: number }
  /** What the trainer sent for this step does not count: tell it to drop the step. */
  | {
      readonly type: 'rejectStep';
      readonly trainerId: string;
      readonly step: number;
      readonly reason: string;
    }
  | {
      readonly type: 'assignEvaluation';
      readonly trainerId: string;
      readonly step: number;
      readonly sequences: readonly number[];
    }
  | {
      readonly type: 'reportEvaluation';
      readonly step: number;
      /** Ascending by trainer, of which one may have measured several parts. */
      readonly parts: readonly EvaluationPart[];
    }
  | {
      readonly type: 'requestSnapshot';
      readonly trainerId: string;
      readonly step: number;
      readonly sequence: number;
      readonly cursor: Cursor;
      readonly refreshedStep: number; // to be given back to initialState on resume, and so
      readonly bases: readonly SlotBasis[];
    }
  /** Ask for the hash of the weights and what this trainer alone has; always after the `requestSnapshot` of the same step. */
  | {
      readonly type: 'requestLocalState';
      readonly trainerId: string;
      readonly step: number;
      readonly sequence: number;
    }
  /**
   * All that is waited for is here: seal the checkpoint, with the local state of these trainers as far as they had
   * any, and of no others, if the weights have this hash (null: nobody told one); report checkpointWritten or
   * checkpointFailed.
   */
  | {
      readonly type: 'writeCheckpoint';
      readonly step: number;
      readonly trainerIds: readonly string[];
      readonly weightsSha256: string | null;
    }
  /** The trainer that was uploading is gone: delete what was sent. */
  | { readonly type: 'abandonCheckpoint'; readonly step: number }
  /** The trainer is forgotten already: report nothing more of this connection. */
  | {
      readonly type: 'closeConnection';
      readonly trainerId: string;
      readonly reason: CloseReason;
      readonly text: string;
    }
  /** Say goodbye to everyone and end the process. */
  | { readonly type: 'finishRun'; readonly outcome: Outcome };

/** The answer of `advance`. `note` says in words, with numbers, why nothing happens or what was refused. */
export interface Transition {
  readonly state: RunState;
  readonly effects: readonly Effect[];
  readonly note?: string;
}
