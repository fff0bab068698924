/**
 * The state of the run on its way up: from one trainer to a checkpoint of the gateway's own, and from there to the
 * coordinator if it has asked for it, as fast as it leaves.
 */
import type { CheckpointDesk } from '../coordinator/checkpoint-desk.ts';
import type { Session } from '../coordinator/session.ts';
import { withRanks, type Slot } from '../galore/slot.ts';
import { stateTensors } from '../galore/state-table.ts';
import type { EffectOf } from './core/gateway-state.ts';
import type { LeaderLink } from './leader-link.ts';
import type { Mirror } from './mirror.ts';

/** Given to the connection ahead of what has left. */
const AHEAD_BYTES = 4 * 1024 * 1024;

/** Between which it goes. */
export interface SnapshotEnds {
  readonly slots: readonly Slot[];
  readonly checkpoints: Pick<CheckpointDesk, 'request' | 'openNewest'>;
  readonly mirror: Pick<Mirror, 'bases' | 'ranks' | 'counted'>;
  readonly link: Pick<LeaderLink, 'send' | 'sendTensor' | 'drained'>;
}

/** The record of which it is the state. */
interface Point {
  readonly step: number;
  readonly sequence: number;
}

export class SnapshotRelay {
  readonly #ends: SnapshotEnds;
  /** What is being sent to the coordinator. */
  #upload: (Point & { isOver: boolean }) | null = null;

  constructor(ends: SnapshotEnds) {
    this.#ends = ends;
  }

  /** Asks a trainer for the state. What is still being sent of an older one ends with that. */
  request({ trainerId, step, sequence }: EffectOf<'requestSnapshot'>, session: Session | undefined): void {
    const { checkpoints, mirror } = this.#ends;
    if (this.#upload !== null) this.end(this.#upload);
    if (session === undefined) return;
    const { bases, counted } = mirror;
    const cursor = { next: 0, returned: [] };
    const effect = { trainerId, step, sequence, cursor, refreshedStep: 0, bases };
    checkpoints.request({ type: 'requestSnapshot', ...effect }, session, [], counted);
  }

  /** Reads the state back from the disk and sends it, and that it ends. */
  async send({ step, sequence }: Point): Promise<void> {
    const { slots, checkpoints, mirror, link } = this.#ends;
    const upload = { step, sequence, isOver: false };
    this.#upload = upload;
    const checkpoint = await checkpoints.openNewest();
    if (checkpoint === null)
      throw new Error('assertion failed: the checkpoint that was written is not there');
    try {
      const places = new Map(checkpoint.tensors.map(({ name }, place) => [name, place]));
      const wanted = stateTensors(withRanks(slots, mirror.ranks));
      for (const [tensor, { name }] of wanted.entries()) {
        await link.drained(AHEAD_BYTES);
        const place = places.get(name)!;
        const { totalBytes, dtype } = checkpoint.tensors[place]!;
        const bytes = await checkpoint.read(place, 0, totalBytes);
        if (upload.isOver) return;
        link.sendTensor({ stream: 'snapshot', step, round: 0, tensor, codec: dtype }, bytes);
      }
    } finally {
      await checkpoint.close();
    }
    if (!upload.isOver) this.end(upload);
  }

  /** Tells the coordinator that there is no more of it. */
  end({ step, sequence }: Point): void {
    if (this.#upload?.step === step) this.breakOff();
    this.#ends.link.send({ kind: 'snapshotEnd', step, sequence, tensors: [] });
  }

  /** The connection is gone, or the run: nothing is sent any more. */
  breakOff(): void {
    if (this.#upload !== null) this.#upload.isOver = true;
    this.#upload = null;
  }
}
