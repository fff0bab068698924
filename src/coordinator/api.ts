/** How the command line starts a coordinator and hears from it. Types only; coordinator.ts is the work. */
import type { RunConfig } from '../config/schema.ts';
import type { Logger } from '../log.ts';
import type { NatsCredentials } from './store/nats/nats-connection.ts';
import type { Lease, StateStore } from './store/state-store.ts';

/** What a coordinator needs to begin. */
export interface CoordinatorOptions {
  readonly config: RunConfig;
  /** new: the run directory must not hold a run yet; resume: it must. With config.state it may, or may not. */
  readonly mode: 'new' | 'resume';
  readonly cacheDir: string;
  /** For config.state. */
  readonly natsCredentials?: NatsCredentials;
  /** A store that is open, of a run that we lead already: it was mirrored by a standby. Closed at the end. */
  readonly authority?: Authority;
  /** In place of the store of config.state; for tests. */
  readonly openStore?: () => Promise<StateStore>;
  readonly logger: Logger;
  /** Write a checkpoint and end after this step, as if asked to stop. */
  readonly stopAtStep?: number;
  /** With config.state, where another leads the run: wait for it, in place of refusing to start. */
  readonly isStandby?: boolean;
  /** Called for everything a person may want to see; must not throw. */
  readonly onReport: (report: RunReport) => void;
}

/** The store that decides what is committed, and the right to. */
export interface Authority {
  readonly store: StateStore;
  readonly lease: Lease;
}

/**
 * Resolves once the coordinator listens.
 * @throws ConfigError, DataError, CheckpointError, OperatingError when the run cannot begin.
 */
export type StartCoordinator = (options: CoordinatorOptions) => Promise<RunningCoordinator>;

/** A coordinator that listens. */
export interface RunningCoordinator {
  /** Where trainers connect, such as `ws://127.0.0.1:29400/`. */
  readonly url: string;
  /** It does not lead the run (yet). */
  readonly isStandby?: boolean;
  /** Where trainers of this machine connect, with `localToken`. */
  readonly localUrl: string;
  /** Lets trainers in that the process which runs the coordinator starts. A secret: never logged, in no file. */
  readonly localToken: string;
  /** Whether others must show a token, of `galore token create`. */
  readonly asksForTokens: boolean;
  /** Settles when the run has ended and everything is on disk and closed. */
  readonly finished: Promise<RunSummary>;
  /** First call: finish the step, write a checkpoint, end. Second call: end at once. */
  stop(): void;
}

/** What happened, for people. Bytes are those of one step on all the sockets together. */
export type RunReport =
  | StepReport
  | ({ readonly type: 'evaluation'; readonly step: number } & Validation)
  | { readonly type: 'checkpoint'; readonly step: number; readonly path: string }
  | { readonly type: 'notice'; readonly text: string }
  /** Something long before or between steps; `share` is from 0 to 1. */
  | { readonly type: 'progress'; readonly text: string; readonly share: number };

/** How good the model is on held-out data. */
export interface Validation {
  readonly loss: number; // nats per token, or per sequence that is classified
  /** Share of the sequences that got their label; null where tokens are predicted. */
  readonly accuracy: number | null;
}

/** One committed step. */
export interface StepReport {
  readonly type: 'step';
  readonly step: number;
  readonly totalSteps: number;
  readonly loss: number | null; // nats per token, or per sequence that is classified; null: nobody tells theirs
  readonly tokens: number;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly bytesUp: number; // trainers to coordinator
  readonly bytesDown: number; // coordinator to trainers
  readonly trainers: number; // whose contributions count
  readonly assigned: number; // that were given work
  readonly learningRate: number;
  readonly validation: Validation | null; // of the last evaluation
  readonly etaSeconds: number;
}

/** How a run ended. */
export interface RunSummary {
  readonly outcome: 'completed' | 'stopped';
  readonly step: number;
  readonly totalSteps: number;
  readonly dir: string;
  readonly lastLoss: number;
  readonly validation: Validation | null;
  readonly checkpointPath: string | null;
  readonly weightsSha256: string | null;
  /**
   * Why there is no checkpoint of `step`, in words; the journal holds what it lacks. Null: there is one,
   * or the run was stopped when none could be had.
   */
  readonly checkpointFailure: string | null;
}
