/**
 * What a page that shows a run is told: JSON texts over the WebSocket `/live`, one event each. Types only; this file is
 * the contract for every view of a run, and docs/monitoring.md, "Events", describes it.
 *
 * The first event is `run`, then `history`, `evaluations` and `now`; after that whatever has changed, at most once a
 * second. A view needs to remember nothing else: each event replaces the one of its type before it, but for `steps`,
 * which goes on where the last `history` or `steps` ended. Unknown types and fields are to be ignored.
 */

/** Rises when a view that was written for the number before would show something wrong. */
export const VIEW_VERSION = 1;

export type ViewEvent =
  | ({ readonly type: 'run' } & RunFacts)
  /** All steps, sampled down to a few thousand points. Replaces everything known of steps. */
  | ({ readonly type: 'history' } & StepHistory)
  /** Further points at the end, in order; the first may replace the last one known if both begin with the same step. */
  | { readonly type: 'steps'; readonly points: readonly StepPoint[]; readonly recent: readonly RecentStep[] }
  /** All of them, sampled down like steps. */
  | { readonly type: 'evaluations'; readonly points: readonly EvaluationPoint[] }
  | ({ readonly type: 'now' } & RunNow);

/** What does not change while a page is open. */
export interface RunFacts {
  readonly viewVersion: number;
  readonly name: string;
  readonly runId: string;
  readonly totalSteps: number | null;
  /** live: told by the coordinator. files: read from a run directory. */
  readonly source: 'live' | 'files';
  /** What a loss is of: tokens, or sequences that are classified. */
  readonly lossUnit: 'nats per token' | 'nats per sequence';
  readonly method: string | null;
  /** How the run treats its trainers, in words for people; in this order. */
  readonly policy: readonly { readonly name: string; readonly value: string }[];
}

/** Steps in order. Where a run has more of them than points, a point stands for `to - from + 1` steps. */
export interface StepHistory {
  /** Steps that a whole point stands for: a power of two. */
  readonly stride: number;
  readonly points: readonly StepPoint[];
  /** The last few steps, exactly as in metrics.jsonl, newest last. */
  readonly recent: readonly RecentStep[];
}

/** Means over the steps `from` to `to`. */
export interface StepPoint {
  readonly from: number;
  readonly to: number;
  /** Nats; null: nobody told theirs. */
  readonly loss: number | null;
  readonly seconds: number;
  readonly tokens: number;
  readonly bytesUp: number; // trainers to coordinator
  readonly bytesDown: number;
}

/** One step, with the numbers of its line in metrics.jsonl. */
export interface RecentStep {
  readonly step: number;
  readonly loss: number | null;
  readonly tokens: number;
  readonly seconds: number;
  readonly waitSeconds: number;
  readonly bytesUp: number;
  readonly bytesDown: number;
  readonly trainers: number;
  /** Who was given work, ascending; empty: not known. */
  readonly members: readonly string[];
  readonly learningRate: number;
  readonly gradientNorm: number | null;
  /** Bytes of all trainers together, by kind (src/protocol/frame-kind.ts), in the order of that list. */
  readonly traffic: readonly { readonly kind: string; readonly up: number; readonly down: number }[];
  /** Who was waited for in vain. */
  readonly late: readonly string[];
  /** Whose norm was too large. */
  readonly outliers: readonly { readonly trainerId: string; readonly action: string }[];
}

/** What was measured of the held-out data after a step. */
export interface EvaluationPoint {
  readonly step: number;
  readonly loss: number;
  /** Null where tokens are predicted. */
  readonly accuracy: number | null;
}

/** A trainer as a page shows it. */
export interface TrainerView {
  readonly trainerId: string;
  /** Of a gateway: those behind it. Null: it is none, or it is not known. */
  readonly trainers: number | null;
  /** gone: it was there and is not; seen: it was in the last step (all that files tell). */
  readonly state: 'loading' | 'ready' | 'lagging' | 'gone' | 'seen';
  /** The last thing that was held against it, or why it went, in words; null: nothing. */
  readonly reason: string | null;
  /** The step at which that was. */
  readonly reasonStep: number | null;
  /** Of its last answer: what it was given and how long it took. */
  readonly sequences: number | null;
  readonly answerSeconds: number | null;
  readonly residentBytes: number | null;
  /** Since this page's source began: steps in which it was late, and contributions with too large a norm. */
  readonly lateSteps: number;
  readonly outliers: number;
}

/** How it stands. */
export interface RunNow {
  /** interrupted: files of a run that has not ended, and nobody is at work. */
  readonly state: 'waiting' | 'running' | 'paused' | 'finishing' | 'completed' | 'stopped' | 'interrupted';
  /** What is being done or waited for, in a sentence. */
  readonly activity: string;
  /** Committed steps. */
  readonly step: number;
  readonly secondsPerStep: number | null;
  readonly etaSeconds: number | null;
  /** Those that are there ascending by id, then those that have gone, the last first. */
  readonly trainers: readonly TrainerView[];
  readonly checkpoint: {
    /** Of the newest on disk. */
    readonly step: number | null;
    /** In words: none is being made, who sends its state, why the last one failed. */
    readonly activity: string;
  };
  /** Pages that are open, this one included. */
  readonly viewers: number;
}
