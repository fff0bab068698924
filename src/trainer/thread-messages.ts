/** What the compute side and the network thread tell each other. Types only; see link.ts. */
import type { PemPaths } from '../files/pem.ts';
import type { LogFields, LogLevel } from '../log.ts';
import type { CloseReason } from '../protocol/close-codes.ts';
import type { TensorHeader } from '../protocol/parts.ts';
import type { Ranks, SlotSizes } from '../protocol/slot-sizes.ts';
import type { AuditRow } from './audit.ts';
import type { HeldState } from './core/session.ts';
import type { Activity, LinkEvent, OutgoingMessage } from './link.ts';

/** What the network thread is started with. */
export interface ThreadOptions {
  readonly url: string;
  readonly trainerId: string;
  readonly runName: string;
  readonly token: string;
  /** Read again for each connection: certificates are renewed. */
  readonly tls: PemPaths;
  readonly software: string;
  readonly device: string;
  readonly schemaHash: Uint8Array;
  readonly handshakeTimeoutMs: number;
  readonly maxUndeliveredBytes: number;
  /** Whether what leaves is counted by kind. */
  readonly isAudited: boolean;
  /** A gateway: it says so, and is the trainer of no engine. Left out: it is none. */
  readonly isGateway?: true;
  /** What it holds when it is started; left out: nothing. */
  readonly held?: HeldState | null;
  /** That refreshes have chosen up to what it holds. */
  readonly ranks?: Ranks;
  /** Bytes sent and received on all sockets so far; written by the thread only. */
  readonly traffic: Float64Array;
}

/** To the thread. `connection` is the one the compute side knows of; what is meant for an older one is dropped. */
export type ToThread =
  | {
      readonly type: 'accept';
      readonly connection: number;
      readonly sizes: readonly SlotSizes[];
      /** What the site tells of its size; left out: nothing. */
      readonly examples?: number | undefined;
    }
  | {
      readonly type: 'refuse';
      readonly connection: number;
      readonly reason: CloseReason;
      readonly text: string;
    }
  | { readonly type: 'send'; readonly connection: number; readonly message: OutgoingMessage }
  | {
      readonly type: 'sendTensor';
      readonly connection: number;
      readonly header: TensorHeader;
      readonly bytes: Uint8Array;
    }
  /** The compute side has taken a StepAssignment: contribution tensors from here on are for it. */
  | { readonly type: 'stepBegun'; readonly connection: number }
  /** `item`: the last snapshot or record taken from the queue, see FromThread. */
  | { readonly type: 'applied'; readonly sequence: number; readonly item: number }
  | { readonly type: 'spoiled'; readonly text: string }
  /** Bytes of tensors that the compute side has taken from its queue. */
  | { readonly type: 'taken'; readonly bytes: number }
  | { readonly type: 'activity'; readonly activity: Activity }
  | { readonly type: 'leave'; readonly text: string };

/** From the thread. */
export type FromThread =
  /** `item` numbers snapshots and records, from 1; 0 on other events. */
  | {
      readonly type: 'event';
      readonly event: LinkEvent;
      readonly connection: number;
      readonly item: number;
      readonly bytes: number;
    }
  /** All that has left, before the last event. */
  | { readonly type: 'audit'; readonly rows: readonly AuditRow[] }
  /** Bytes given to sendTensor that are sent, or dropped. */
  | { readonly type: 'flushed'; readonly bytes: number }
  | {
      readonly type: 'log';
      readonly level: LogLevel;
      readonly event: string;
      readonly fields: LogFields;
      readonly message: string;
    };
