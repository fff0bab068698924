/** How the command line runs a trainer. Types only; trainer.ts is the work. */
import type { Precision } from './engine/device.ts';
import type { PemPaths } from '../files/pem.ts';
import type { Logger } from '../log.ts';
import type { AuditRow } from './audit.ts';
import type { SiteOptions } from './site.ts';
import type { ReadyDevice } from './engine/ready-device.ts';

/** What a trainer needs to take part in a run. */
export interface TrainerOptions {
  readonly url: string;
  readonly trainerId: string;
  /** The run it wants; empty: whatever run the coordinator has. */
  readonly runName: string;
  /** Join token; empty where none is asked for. A secret: never logged. */
  readonly token: string;
  /** PEM files for wss://: `ca` to trust in place of the system's authorities, `cert` and `key` to show. */
  readonly tls?: PemPaths | undefined;
  /** The trainer's own data; left out: it trains on what the coordinator hands out. */
  readonly site?: SiteOptions | undefined;
  /** Told at the end of everything that has left. */
  readonly onAudit?: ((rows: readonly AuditRow[], socketBytes: number) => void) | undefined;
  readonly threads: number;
  /** Where to compute. Default: what loadEngine takes by itself. */
  readonly device?: ReadyDevice | undefined;
  readonly precision: Precision;
  /** Where it keeps what is its own from step to step, so that it can be started again; left out: nowhere. */
  readonly stateDir?: string | undefined;
  readonly logger: Logger;
  /** Aborted: leave the run in good order and resolve. */
  readonly signal: AbortSignal;
  /** What it is doing now, in words, for people. */
  readonly onActivity?: (text: string) => void;
}

/** Why a trainer ended. */
export interface TrainerResult {
  /** The exit status of the process: 0 the run finished or it left as asked; 3 it was refused or lost for good. */
  readonly code: number;
  readonly reason: string;
}

/** Connects, trains until the run ends, and resolves; reconnects on its own while that can help. */
export type RunTrainer = (options: TrainerOptions) => Promise<TrainerResult>;
