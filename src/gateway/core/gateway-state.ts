/**
 * What a gateway knows, the facts that change it and the commands it gives. Types only; the rules are in
 * advance-gateway.ts. To the coordinator the gateway is one trainer, to its trainers it is the coordinator. Like the
 * coordinator's core this one holds no tensor, socket, file or clock.
 */
import type { EvaluationPart, FactorJob, Received, Shard } from '../../coordinator/core/state.ts';
import type { CloseReason } from '../../protocol/close-codes.ts';

/** A trainer that has passed the handshake. */
export interface BehindState {
  readonly trainerId: string;
  /** loading: receiving state; ready: gets work; lagging: it has been left behind and not been heard from since. */
  readonly status: 'loading' | 'ready' | 'lagging';
}

/** What the coordinator has asked for in a step, as far as it is not answered. */
export interface StepState {
  readonly step: number;
  /** The members that are left; with data of the trainers' own without positions. Ascending by trainer. */
  readonly shards: readonly Shard[];
  /**
   * waiting: it is the coordinator's turn; sketching, factorising, collecting: answers of the members come in;
   * answered: the contribution has left.
   */
  readonly phase: 'waiting' | 'sketching' | 'factorising' | 'collecting' | 'answered';
  /** Of the refresh; 0 outside of one. */
  readonly round: number;
  /** Answers of this phase, ascending by trainer. */
  readonly received: readonly Received[];
  /** What the coordinator wants factorised: each an answer of its own. */
  readonly orders: readonly FactorOrder[];
  /** How long members may take for an answer; 0: as long as they like. */
  readonly patienceMs: number;
  readonly deadlineMs: number | null;
}

/** Slots to be factorised, dealt out to the members. */
export interface FactorOrder {
  readonly jobs: readonly FactorJob[];
  readonly isFinal: boolean;
  readonly isSent: boolean;
}

/** Held-out sequences that are being measured; by their place in the coordinator's message. */
export interface EvaluationState {
  /** Which message it answers. */
  readonly job: number;
  readonly step: number;
  /** Not answered yet. */
  readonly shards: readonly Shard[];
  readonly received: readonly EvaluationPart[];
  /** Every trainer measures what it has itself. */
  readonly isOwn: boolean;
}

/** A checkpoint of the gateway's own, that the coordinator may have asked for. */
export interface SnapshotState {
  readonly step: number;
  readonly sequence: number;
  /** Who sends it; null: it is written. */
  readonly trainerId: string | null;
  /** The state is to be sent on. */
  readonly isAskedFor: boolean;
  /** SnapshotEnd is still owed to the coordinator. */
  readonly isOwed: boolean;
}

/** Hashes of the weights that trainers have told of one step. */
export interface HashState {
  readonly step: number;
  readonly expected: readonly string[];
  readonly told: readonly { readonly trainerId: string; readonly weightsSha256: string }[];
  /** Whether the coordinator knows one. */
  readonly isSent: boolean;
}

export interface GatewayState {
  readonly nowMs: number;
  /** Ascending. */
  readonly trainers: readonly BehindState[];
  /** Records stored, and the step of the last update among them. */
  readonly sequence: number;
  readonly committedStep: number;
  readonly work: StepState | null;
  /** Oldest first. */
  readonly evaluations: readonly EvaluationState[];
  readonly snapshot: SnapshotState | null;
  readonly hashes: HashState | null;
  /** The coordinator has said Welcome and the connection stands. */
  readonly isUp: boolean;
  /** What the coordinator was told last; 0: nothing, it does not count on us. */
  readonly toldCapacity: number;
  /** Every so many steps trainers tell a hash by themselves; 0: never. */
  readonly hashEvery: number;
}

/** Facts, in the past tense. */
export type GatewayEvent = { readonly nowMs: number } &
  // of trainers
  (
    | { readonly type: 'trainerJoined' | 'trainerReady' | 'trainerSeen'; readonly trainerId: string }
    | { readonly type: 'trainerLost'; readonly trainerId: string; readonly reason: string }
    | {
        readonly type: 'sketchReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly round: number;
        readonly tokens: number;
      }
    | {
        readonly type: 'factorReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly round: number;
        readonly slots: readonly number[];
      }
    | ({ readonly type: 'contributionReceived'; readonly step: number } & Received)
    | ({ readonly type: 'evaluationReceived'; readonly step: number } & EvaluationPart)
    | {
        readonly type: 'stateHashReceived';
        readonly trainerId: string;
        readonly step: number;
        readonly weightsSha256: string;
      }
    | { readonly type: 'snapshotReceived'; readonly trainerId: string; readonly step: number }
    // of the disk
    | { readonly type: 'checkpointWritten' | 'checkpointFailed'; readonly step: number }
    /** The record is on disk, or was there already when the gateway began. */
    | {
        readonly type: 'recordStored';
        readonly sequence: number;
        readonly step: number;
        readonly kind: 'basis' | 'update';
      }
    // of the coordinator
    | {
        readonly type: 'stepAssigned';
        readonly step: number;
        /** null: trainers have data of their own. */
        readonly positions: readonly number[] | null;
        readonly refreshSlots: readonly number[];
        readonly deadlineMs: number; // 0: none
      }
    | {
        readonly type: 'sketchesAsked';
        readonly step: number;
        readonly round: number;
        readonly slots: readonly number[];
      }
    | {
        readonly type: 'factorsAsked';
        readonly step: number;
        readonly round: number;
        readonly slots: readonly number[];
        readonly isFinal: boolean;
      }
    | {
        readonly type: 'evaluationAsked';
        /** Another one each time. */
        readonly job: number;
        readonly step: number;
        /** How many; null: what each trainer holds out itself. */
        readonly sequences: number | null;
      }
    | {
        readonly type: 'snapshotAsked';
        readonly step: number;
        readonly sequence: number;
        readonly isLocalOnly: boolean;
      }
    | { readonly type: 'leaderJoined' }
    /** What it has asked for is void. */
    | { readonly type: 'leaderLost'; readonly reason: string }
    | { readonly type: 'ticked' }
  );

/** An event without its time, which the shell adds. */
export type GatewayFact = GatewayEvent extends infer E
  ? E extends GatewayEvent
    ? Omit<E, 'nowMs'>
    : never
  : never;

/** Commands, carried out in this order. */
export type GatewayEffect =
  // to trainers
  | {
      readonly type: 'assignStep';
      readonly trainerId: string;
      readonly step: number;
      readonly positions: readonly number[];
    }
  | {
      readonly type: 'requestSketches';
      readonly trainerIds: readonly string[];
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
    }
  | {
      readonly type: 'assignFactors';
      readonly trainerId: string;
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly isFinal: boolean;
    }
  | {
      readonly type: 'assignEvaluation';
      readonly trainerId: string;
      readonly job: number;
      readonly step: number;
      /** Places in the coordinator's message; null: what the trainer holds out itself. */
      readonly sequences: readonly number[] | null;
    }
  | {
      readonly type: 'requestSnapshot';
      readonly trainerId: string;
      readonly step: number;
      readonly sequence: number;
    }
  | {
      readonly type: 'rejectStep';
      readonly trainerId: string;
      readonly step: number;
      readonly reason: string;
    }
  /** The trainer is forgotten already: report nothing more of this connection. */
  | {
      readonly type: 'closeConnection';
      readonly trainerId: string;
      readonly reason: CloseReason;
      readonly text: string;
    }
  // to the coordinator
  | { readonly type: 'tellCapacity'; readonly trainers: number }
  /** Sum the sketches of the round, weighted by tokens, and send the sums. */
  | {
      readonly type: 'sendSketches';
      readonly step: number;
      readonly round: number;
      readonly received: readonly Received[];
    }
  | {
      readonly type: 'sendFactors';
      readonly step: number;
      readonly round: number;
      readonly jobs: readonly FactorJob[];
    }
  | {
      readonly type: 'sendContribution';
      readonly step: number;
      readonly received: readonly Received[];
      readonly shards: readonly Shard[];
    }
  | {
      readonly type: 'sendEvaluation';
      readonly job: number;
      readonly step: number;
      readonly parts: readonly EvaluationPart[];
    }
  | { readonly type: 'sendHash'; readonly step: number; readonly weightsSha256: string }
  /** The state of a checkpoint that was written, and its end. */
  | { readonly type: 'sendSnapshot'; readonly step: number; readonly sequence: number }
  | { readonly type: 'endSnapshot'; readonly step: number; readonly sequence: number }
  /** Work is lost that the coordinator counts on: give up the connection and open another, so that it hands it out again. */
  | { readonly type: 'reconnect'; readonly text: string }
  // to the disk
  | {
      readonly type: 'writeCheckpoint';
      readonly step: number;
      readonly trainerId: string;
      /** That the trainer has told of its weights; null: none. */
      readonly weightsSha256: string | null;
    }
  | { readonly type: 'abandonCheckpoint'; readonly step: number }
  /** Forget what was staged for the step. */
  | { readonly type: 'discardStaged'; readonly step: number };

/** One kind of command, by its type. */
export type EffectOf<T extends GatewayEffect['type']> = Extract<GatewayEffect, { type: T }>;

/** The answer of `advanceGateway`, with what people may want to know. */
export interface GatewayTransition {
  readonly state: GatewayState;
  readonly effects: readonly GatewayEffect[];
  readonly note?: string;
}
