/**
 * Checkpoints during a run: asks one trainer for the state, writes it to disk as it comes, beside the
 * steps, and drops what the new checkpoint makes superfluous. The core says when and from whom.
 */
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import { FIRST_DIGEST } from '../protocol/digest.ts';
import type { PartMessage } from '../protocol/messages.ts';
import { ProtocolError } from '../errors.ts';
import { withRanks } from '../galore/slot.ts';
import { stateTensors } from '../galore/state-table.ts';
import type { Logger } from '../log.ts';
import type { RunReport } from './api.ts';
import type { Effect } from './core/state.ts';
import type { Dispatch } from './dispatch.ts';
import { factsOf, type PreparedRun } from './prepare-run.ts';
import { ranksOf } from './restore-bases.ts';
import type { Session } from './session.ts';
import { SnapshotIntake } from './snapshot-intake.ts';
import {
  beginCheckpoint,
  openNewestCheckpoint,
  pruneCheckpoints,
  type CheckpointInfo,
  type CheckpointWriter,
  type OpenCheckpoint,
} from './store/checkpoint.ts';

/** Least time between two reports that an upload is getting on. */
const PROGRESS_INTERVAL_MS = 1000;

/** What the desk needs of its surroundings. */
export interface CheckpointSurroundings {
  readonly dispatch: Dispatch;
  readonly onReport: (report: RunReport) => void;
  readonly logger: Logger;
  readonly nowMs: () => number;
}

/** What is told of the newest checkpoint. */
type NewestCheckpoint = Pick<CheckpointInfo, 'step' | 'path' | 'weightsSha256'>;

export class CheckpointDesk {
  readonly #run: PreparedRun;
  readonly #around: CheckpointSurroundings;
  /** What the core waits for; null: nothing, or it was given up. */
  #awaited: Extract<Effect, { type: 'requestSnapshot' }> | null = null;
  #intake: SnapshotIntake | null = null;
  /** Ends when all files that were opened are closed, but for those of `#intake`. */
  #pending: Promise<unknown> = Promise.resolve();
  #reportedMs = 0;
  #newest: NewestCheckpoint;
  #failure: string | null = null;

  constructor(run: PreparedRun, around: CheckpointSurroundings) {
    this.#run = run;
    this.#around = around;
    this.#newest = run.newestCheckpoint;
  }

  /** The newest checkpoint on disk. */
  get newest(): NewestCheckpoint {
    return this.#newest;
  }

  /** Why the last one asked for could not be written; null when it could. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Opens the files of a checkpoint, then asks the trainer for its state. */
  request(
    effect: Extract<Effect, { type: 'requestSnapshot' }>,
    session: Session,
    members: readonly string[],
  ): void {
    const { trainerId, step, sequence, refreshedStep, bases, cursor } = effect;
    const { journal, shape, checkpointsDir, texts } = this.#run;
    const table = stateTensors(withRanks(shape.slots, ranksOf(bases)));
    const digest = journal.digestOf(sequence) ?? FIRST_DIGEST;
    const facts = factsOf(this.#run, { step, sequence, digest, refreshedStep, bases, cursor }, members);
    this.#awaited = effect;
    session.enqueue(() =>
      this.#track(async () => {
        let writer: CheckpointWriter;
        try {
          writer = await beginCheckpoint(checkpointsDir, step, table, texts);
        } catch (error) {
          if (this.#awaited === effect) this.#failed(step, error);
          return;
        }
        const intake = new SnapshotIntake(trainerId, facts, table, writer);
        // The trainer may have been lost, and another asked, while the files were being made.
        if (this.#awaited !== effect) return this.#discard(intake);
        this.#intake = intake;
        session.connection.send({ kind: 'snapshotRequest', step, sequence });
      }),
    );
  }

  /** Opens the newest checkpoint. One that is deleted meanwhile was replaced by a newer one: that is opened then. */
  async openNewest(): Promise<OpenCheckpoint | null> {
    for (;;) {
      const { path } = this.#newest;
      try {
        return await openNewestCheckpoint(this.#run.checkpointsDir, () => {});
      } catch (error) {
        if (this.#newest.path === path) throw error;
      }
    }
  }

  /** Takes a part of stream snapshot. @throws ProtocolError */
  acceptPart(trainerId: string, part: PartMessage): void {
    if (this.#intake?.trainerId !== trainerId) return;
    this.#intake.accept(part);
    const nowMs = this.#around.nowMs();
    if (nowMs - this.#reportedMs < PROGRESS_INTERVAL_MS) return;
    this.#reportedMs = nowMs;
    this.#around.dispatch({ type: 'snapshotProgressed', trainerId, step: this.#intake.step });
  }

  /** The trainer has sent everything. @throws ProtocolError if it has not */
  acceptEnd(trainerId: string): void {
    const intake = this.#intake;
    if (intake?.trainerId !== trainerId) return;
    if (!intake.isComplete) {
      const text = 'the snapshot ended before all tensors were sent';
      throw new ProtocolError(CLOSE_CODES.UNEXPECTED_MESSAGE.code, text);
    }
    this.#intake = null;
    this.#around.dispatch({ type: 'snapshotReceived', trainerId, step: intake.step });
    void this.#track(() => this.#store(intake));
  }

  /** Deletes what the trainer sent so far; what has arrived whole is written all the same. */
  async abandon(): Promise<void> {
    const intake = this.#intake;
    this.#awaited = null;
    this.#intake = null;
    if (intake !== null) await this.#track(() => this.#discard(intake));
  }

  /** Gives up what is on its way and waits until no file is being written any more. */
  async close(): Promise<void> {
    await this.abandon();
    await this.#pending;
  }

  /** Must not reject: nobody may be waiting. */
  async #store(intake: SnapshotIntake): Promise<void> {
    const { step } = intake;
    try {
      this.#newest = await intake.finish();
      this.#failure = null;
    } catch (error) {
      return this.#failed(step, error);
    }
    try {
      await this.#dropSuperfluous();
    } catch (error) {
      this.#around.logger.warn('checkpoint.prune', { step }, String(error));
    }
    this.#around.onReport({ type: 'checkpoint', step, path: this.#newest.path });
    this.#around.dispatch({ type: 'checkpointWritten', step });
  }

  async #dropSuperfluous(): Promise<void> {
    const { checkpointsDir, journal, config } = this.#run;
    await journal.startSegment();
    const [oldest] = await pruneCheckpoints(checkpointsDir, config.checkpoint.keep);
    if (oldest !== undefined) await journal.removeSegmentsBefore(oldest.sequence + 1);
  }

  /** What cannot be deleted now goes when the run is opened next. */
  async #discard(intake: SnapshotIntake): Promise<void> {
    try {
      await intake.abandon();
    } catch (error) {
      this.#around.logger.warn('checkpoint.abandon', { step: intake.step }, String(error));
    }
  }

  #track(work: () => Promise<void>): Promise<void> {
    const done = work();
    this.#pending = Promise.allSettled([this.#pending, done]);
    return done;
  }

  #failed(step: number, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#failure = reason;
    this.#around.onReport({
      type: 'notice',
      text: `the checkpoint of step ${step} could not be written: ${reason}`,
    });
    this.#around.dispatch({ type: 'checkpointFailed', step, reason });
  }
}
