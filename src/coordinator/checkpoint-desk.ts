/**
 * Checkpoints during a run: asks one trainer for the state, and all for what they alone have, writes it to disk as it
 * comes, beside the steps, and drops what the new checkpoint makes superfluous. The core says when, from whom, and
 * what is no longer waited for.
 */
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import { FIRST_DIGEST, isSameDigest } from '../protocol/digest.ts';
import type { PartMessage, SnapshotProgress } from '../protocol/messages.ts';
import { CheckpointError, ProtocolError } from '../errors.ts';
import { withRanks } from '../galore/slot.ts';
import { localTensors, stateTensors } from '../galore/state-table.ts';
import type { Logger } from '../log.ts';
import type { RunReport } from './api.ts';
import { CheckpointJob } from './checkpoint-job.ts';
import type { Effect } from './core/state.ts';
import type { Dispatch } from './dispatch.ts';
import type { CountedSteps } from './counted-steps.ts';
import { factsOf, type PreparedRun } from './prepare-run.ts';
import { ranksOf } from './restore-bases.ts';
import type { Session } from './session.ts';
import {
  beginCheckpoint,
  listCheckpointSteps,
  openCheckpoint,
  openNewestCheckpoint,
  pruneCheckpoints,
  removeCheckpoint,
  verifyCheckpoint,
  readRunFacts,
  type AddFiles,
  type CheckpointInfo,
  type OpenCheckpoint,
  type VerifiedStamps,
} from './store/checkpoint.ts';
import { describePassing, isPassing } from './store/full-disk.ts';

/** Least time between two reports that an upload is getting on. */
const PROGRESS_INTERVAL_MS = 1000;

/** What checkpoints are made of and where they lie. */
export type CheckpointedRun = Pick<
  PreparedRun,
  | 'runId'
  | 'config'
  | 'dataset'
  | 'baseSha256'
  | 'journal'
  | 'shape'
  | 'checkpointsDir'
  | 'texts'
  | 'newestCheckpoint'
  | 'verified'
> & {
  /** null: checkpoints are nowhere but in this folder. */
  readonly authority: PreparedRun['authority'] | null;
};

/** What the desk needs of its surroundings. */
export interface CheckpointSurroundings {
  readonly dispatch: Dispatch;
  readonly onReport: (report: RunReport) => void;
  readonly logger: Logger;
  readonly nowMs: () => number;
  /** What else a checkpoint is to have; absent: nothing. */
  readonly addFiles?: AddFiles;
}

/** What is told of the newest checkpoint. */
type NewestCheckpoint = Pick<CheckpointInfo, 'step' | 'path' | 'weightsSha256'>;

export class CheckpointDesk {
  readonly #run: CheckpointedRun;
  readonly #around: CheckpointSurroundings;
  /** What the core waits for; null: nothing, or it was given up. */
  #job: CheckpointJob | null = null;
  /** Ends when all files that were opened are closed, but for those of `#job`. */
  #pending: Promise<unknown> = Promise.resolve();
  #reportedMs = 0;
  #newest: NewestCheckpoint;
  #failure: { readonly step: number; readonly text: string } | null = null;

  /** Checkpoints that were read back and are whole. */
  readonly #verified: VerifiedStamps;
  /** Ends when nobody opens a checkpoint any more. */
  #opening: Promise<unknown> = Promise.resolve();

  constructor(run: CheckpointedRun, around: CheckpointSurroundings) {
    this.#run = run;
    this.#around = around;
    this.#newest = run.newestCheckpoint;
    this.#verified = run.verified;
  }

  /** The newest checkpoint on disk. */
  get newest(): NewestCheckpoint {
    return this.#newest;
  }

  /** Why the last one asked for could not be written; null when it could. */
  get failure(): string | null {
    return this.#failure?.text ?? null;
  }

  /** Opens the files of a checkpoint, then asks the trainer for its state. */
  request(
    effect: Extract<Effect, { type: 'requestSnapshot' }>,
    session: Session,
    members: readonly string[],
    counted: CountedSteps | null,
  ): void {
    const { step, sequence, refreshedStep, bases, cursor } = effect;
    const { journal, shape, checkpointsDir, texts } = this.#run;
    const slots = withRanks(shape.slots, ranksOf(bases));
    const shared = stateTensors(slots);
    const digest = journal.digestOf(sequence) ?? FIRST_DIGEST;
    const at = { step, sequence, digest, refreshedStep, bases, cursor, counted };
    const facts = factsOf(this.#run, at, members);
    const begun = beginCheckpoint(checkpointsDir, step, shared, texts, this.#around.addFiles);
    const job = new CheckpointJob({ facts, shared, local: localTensors(slots) }, begun);
    this.#job = job;
    void this.#track(async () => {
      try {
        await begun;
      } catch (error) {
        if (this.#job === job) await this.#failed(job, error);
      }
    });
    this.#ask(job, session, false);
  }

  /** Asks another trainer for what it keeps of its gradients, for the checkpoint requested last. */
  requestLocal(session: Session): void {
    if (this.#job !== null) this.#ask(this.#job, session, true);
  }

  /** Opens the newest checkpoint. One that is deleted meanwhile was replaced by a newer one: that is opened then. */
  async openNewest(): Promise<OpenCheckpoint | null> {
    for (;;) {
      const { path } = this.#newest;
      try {
        return await this.#inTurn(() =>
          openNewestCheckpoint(this.#run.checkpointsDir, () => {}, this.#verified),
        );
      } catch (error) {
        if (this.#newest.path === path) throw error;
      }
    }
  }

  /** Somebody's weights are not what they should be: whoever joins next gets nothing that was not read back anew. */
  distrust(): void {
    this.#verified.clear();
  }

  /**
   * Opens the checkpoint of which a trainer has the first tensors, if it is still there and whole, and the journal
   * goes on from it; else null.
   */
  async openContinued(progress: SnapshotProgress): Promise<OpenCheckpoint | null> {
    const { runId, journal, checkpointsDir } = this.#run;
    const digest = journal.digestOf(progress.sequence);
    if (progress.runId !== runId || digest === null || !isSameDigest(digest, progress.digest)) return null;
    try {
      for (const step of (await listCheckpointSteps(checkpointsDir)).toReversed()) {
        const { sequence } = await readRunFacts(checkpointsDir, step);
        if (sequence !== progress.sequence) continue;
        return await this.#inTurn(() => openCheckpoint(checkpointsDir, step, this.#verified));
      }
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
    return null;
  }

  /** Takes a part of stream snapshot. @throws ProtocolError */
  acceptPart(session: Session, part: PartMessage): void {
    const { trainerId } = session;
    const job = this.#jobOf(session);
    const intake = job?.intakeOf(trainerId);
    if (job === null || intake === undefined) return;
    intake.accept(part);
    const nowMs = this.#around.nowMs();
    if (nowMs - this.#reportedMs < PROGRESS_INTERVAL_MS) return;
    this.#reportedMs = nowMs;
    this.#around.dispatch({ type: 'snapshotProgressed', trainerId, step: job.step });
  }

  /** The trainer has sent everything. @throws ProtocolError if it has not */
  acceptEnd(session: Session): void {
    const { trainerId } = session;
    const job = this.#jobOf(session);
    session.uploadsOwed.shift();
    const intake = job?.intakeOf(trainerId);
    if (job === null || intake === undefined) return;
    if (!intake.isComplete) {
      const text = 'the snapshot ended before all tensors were sent';
      throw new ProtocolError(CLOSE_CODES.UNEXPECTED_MESSAGE.code, text);
    }
    this.#around.dispatch({ type: 'snapshotReceived', trainerId, step: job.step });
  }

  /** Seals the checkpoint: everything that is waited for is here. */
  write({ trainerIds, weightsSha256 }: Extract<Effect, { type: 'writeCheckpoint' }>): void {
    const job = this.#job;
    this.#job = null;
    if (job !== null) void this.#track(() => this.#store(job, trainerIds, weightsSha256));
  }

  /** Deletes what was sent so far; what is being sealed is written all the same. */
  async abandon(): Promise<void> {
    const job = this.#job;
    this.#job = null;
    if (job !== null) await this.#track(() => this.#discard(job));
  }

  /** Gives up what is on its way and waits until no file is being written any more. */
  async close(): Promise<void> {
    await this.abandon();
    await this.#pending;
  }

  /** Sends the request in its turn, once there are files. */
  #ask(job: CheckpointJob, session: Session, isLocalOnly: boolean): void {
    job.expect(session.trainerId, isLocalOnly);
    session.enqueue(async () => {
      // The checkpoint may have been given up while the files were being made.
      if (!(await job.isBegun) || this.#job !== job) return;
      session.uploadsOwed.push(job);
      session.connection.send({
        kind: 'snapshotRequest',
        step: job.step,
        sequence: job.sequence,
        isLocalOnly,
      });
    });
  }

  /** What a trainer sends is for; null: for a checkpoint that was given up. @throws ProtocolError unless it was asked */
  #jobOf({ uploadsOwed }: Session): CheckpointJob | null {
    const [first] = uploadsOwed;
    if (first === undefined) {
      const text = 'a snapshot that was not asked for';
      throw new ProtocolError(CLOSE_CODES.UNEXPECTED_MESSAGE.code, text);
    }
    // A trainer answers one request after the other, each with one SnapshotEnd.
    return first === this.#job ? first : null;
  }

  /** Must not reject: nobody may be waiting. */
  async #store(
    job: CheckpointJob,
    trainerIds: readonly string[],
    weightsSha256: string | null,
  ): Promise<void> {
    const { step } = job;
    try {
      const written = await job.finish(trainerIds, weightsSha256);
      await this.#verify(step);
      const { checkpointsDir, authority } = this.#run;
      await authority?.store.checkpoints.put(authority.lease, checkpointsDir, step);
      this.#newest = written;
      this.#failure = null;
    } catch (error) {
      return await this.#failed(job, error);
    }
    try {
      await this.#dropSuperfluous();
    } catch (error) {
      this.#around.logger.warn('checkpoint.prune', { step }, String(error));
    }
    this.#around.onReport({ type: 'checkpoint', step, path: this.#newest.path });
    this.#around.dispatch({ type: 'checkpointWritten', step });
  }

  /** Reads back what was written; of a checkpoint that is not what it should be nothing is left. */
  async #verify(step: number): Promise<void> {
    const { checkpointsDir } = this.#run;
    try {
      await verifyCheckpoint(checkpointsDir, step, this.#verified);
    } catch (error) {
      await removeCheckpoint(checkpointsDir, step).catch(() => {});
      throw error;
    }
  }

  /** Deletes first: the disk may be full. Records go once every checkpoint that is kept was read back. */
  async #dropSuperfluous(): Promise<void> {
    const { checkpointsDir, journal, config, authority } = this.#run;
    const { keep } = config.checkpoint;
    const [oldest] = await pruneCheckpoints(checkpointsDir, keep, this.#verified);
    try {
      await journal.startSegment();
    } finally {
      if (oldest !== undefined) await journal.removeSegmentsBefore(oldest.sequence + 1);
    }
    if (authority === null) return;
    const { store, lease } = authority;
    const here = await listCheckpointSteps(checkpointsDir);
    const stored = await store.checkpoints.list();
    const superfluous = stored.slice(0, -keep).filter(({ step }) => !here.includes(step));
    for (const { step } of superfluous) await store.checkpoints.remove(lease, step);
    const first = stored.find((checkpoint) => !superfluous.includes(checkpoint));
    if (first === undefined || oldest === undefined) return;
    await store.removeRecordsBefore(lease, Math.min(first.sequence, oldest.sequence) + 1);
  }

  /** One after the other: what was read back for one is not read again for the next. */
  #inTurn<T>(open: () => Promise<T>): Promise<T> {
    const opened = this.#opening.then(open);
    this.#opening = opened.catch(() => {});
    return opened;
  }

  /** What cannot be deleted now goes when the run is opened next. */
  async #discard(job: CheckpointJob): Promise<void> {
    try {
      await job.abandon();
    } catch (error) {
      this.#around.logger.warn('checkpoint.abandon', { step: job.step }, String(error));
    }
  }

  #track(work: () => Promise<void>): Promise<void> {
    const done = work();
    this.#pending = Promise.allSettled([this.#pending, done]);
    return done;
  }

  async #failed({ step, bytes }: CheckpointJob, error: unknown): Promise<void> {
    const text = error instanceof Error ? error.message : String(error);
    const isFirst = this.#failure?.step !== step;
    this.#failure = { step, text };
    if (isFirst) {
      const told = `the checkpoint of step ${step} could not be written: ${text}; the journal has its steps`;
      this.#around.onReport({ type: 'notice', text: told });
    }
    const full = isPassing(error);
    const reason = full ? await describePassing(error, this.#run.checkpointsDir, bytes) : text;
    this.#around.dispatch({ type: 'checkpointFailed', step, reason, isDiskFull: full });
  }
}
