/**
 * What a gateway keeps on its disk of the run: a checkpoint and the records behind it, in the files in which a
 * coordinator keeps them. From these it brings up to date who joins, without asking the coordinator again. It may lose
 * all of it: then it gets a snapshot like any trainer.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { explaining } from '../files/system-error.ts';
import { LOCAL_PREFIX } from '../galore/state-table.ts';
import type { Logger } from '../log.ts';
import type { CommitMessage, SnapshotHeader } from '../protocol/messages.ts';
import type { Ranks } from '../protocol/slot-sizes.ts';
import type { SlotBasis } from '../coordinator/core/state.ts';
import {
  beginCheckpoint,
  openNewestCheckpoint,
  removeCheckpointLeftovers,
  type CheckpointInfo,
  type CheckpointWriter,
  type VerifiedStamps,
} from '../coordinator/store/checkpoint.ts';
import type { RunJson } from '../coordinator/store/checkpoint-format.ts';
import { lockDirectory, type DirectoryLock } from '../coordinator/store/directory-lock.ts';
import { commitsFrom } from '../coordinator/store/commits.ts';
import { Journal } from '../coordinator/store/journal.ts';
import { foldCounted, type CountedSteps } from '../coordinator/counted-steps.ts';
import { basisFacts, ranksOf } from '../coordinator/restore-bases.ts';
import type { HeldState } from '../trainer/core/session.ts';

/** Where the mirror stands. */
export interface MirrorHead {
  readonly runId: string;
  readonly step: number;
  readonly sequence: number;
  readonly digest: Uint8Array;
}

/** Documents of a checkpoint, as far as a gateway knows them. */
export interface MirrorFacts {
  readonly runId: string;
  readonly name: string;
  readonly seed: number;
  readonly modelJson: string;
}

export class Mirror {
  readonly path: string;
  readonly #lock: DirectoryLock;
  readonly #logger: Logger;
  readonly verified: VerifiedStamps = new Map();
  #journal: Journal;
  #head: MirrorHead | null = null;
  #bases: readonly SlotBasis[] = [];
  #counted: CountedSteps | null = null;
  #newest: CheckpointInfo | null = null;
  #writer: { readonly writer: CheckpointWriter; readonly header: SnapshotHeader } | null = null;

  private constructor(path: string, lock: DirectoryLock, journal: Journal, logger: Logger) {
    this.path = path;
    this.#lock = lock;
    this.#journal = journal;
    this.#logger = logger;
  }

  /**
   * Opens the folder, or makes it. What is damaged is not used.
   * @throws OperatingError if it cannot be written or another process uses it
   */
  static async open(path: string, logger: Logger): Promise<Mirror> {
    await explaining(`create ${path}`, mkdir(path, { recursive: true, mode: 0o700 }));
    const lock = await lockDirectory(path, (text) => logger.info('gateway.folder', {}, text));
    try {
      const journal = await openJournal(path, logger);
      const mirror = new Mirror(path, lock, journal, logger);
      await mirror.#restore();
      return mirror;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  get checkpointsDir(): string {
    return join(this.path, 'checkpoints');
  }

  get journal(): Journal {
    return this.#journal;
  }

  /** Null: a snapshot is needed, or on its way. */
  get head(): MirrorHead | null {
    return this.#head;
  }

  get held(): HeldState | null {
    if (this.#head === null) return null;
    const { runId, sequence, digest } = this.#head;
    return { runId, sequence, digest: Buffer.from(digest).toString('hex') };
  }

  /** What records have said of ranks. */
  get bases(): readonly SlotBasis[] {
    return this.#bases;
  }

  /** Who was counted when; null: it is not known. */
  get counted(): CountedSteps | null {
    return this.#counted;
  }

  get ranks(): Ranks {
    return ranksOf(this.#bases);
  }

  get newest(): Pick<CheckpointInfo, 'step' | 'path' | 'weightsSha256'> {
    return this.#newest ?? { step: 0, path: '', weightsSha256: '' };
  }

  /** A snapshot of this kind is on its way: everything else goes, unless it goes on with the one that was cut off. */
  async beginSnapshot(header: SnapshotHeader, modelJson: string): Promise<void> {
    if (header.firstTensor > 0 && this.#writer !== null) return;
    await this.clear();
    await this.#journal.restartAfter(header.sequence, header.digest);
    const shared = header.tensors.filter(({ name }) => !name.startsWith(LOCAL_PREFIX));
    const writer = await beginCheckpoint(this.checkpointsDir, header.step, shared, { configJson: modelJson });
    this.#writer = { writer, header };
  }

  async writeTensor(tensor: number, bytes: Uint8Array): Promise<void> {
    const info = this.#writer?.header.tensors[tensor];
    if (info === undefined || info.name.startsWith(LOCAL_PREFIX)) return;
    await this.#writer!.writer.write(tensor, 0, bytes);
  }

  /** All tensors of the snapshot are here. */
  async endSnapshot(facts: MirrorFacts, ranks: Ranks): Promise<void> {
    if (this.#writer === null) throw new Error('assertion failed: no snapshot is on its way');
    const { writer, header } = this.#writer;
    this.#writer = null;
    const { step, sequence, digest } = header;
    this.#bases = [...ranks].map(([slot, rank]) => slotBasis(slot, rank, step));
    this.#counted = header.counted === undefined ? null : new Map(Object.entries(header.counted));
    const hex = Buffer.from(digest).toString('hex');
    const { runId, name, seed } = facts;
    this.#newest = await writer.finish({
      ...{ runId, name, step, sequence, digest: hex, refreshedStep: 0, bases: this.#bases, seed },
      ...{ cursor: { next: 0, returned: [] }, schedulePosition: step, members: [] },
      ...(header.counted === undefined ? {} : { counted: header.counted }),
      created: new Date().toISOString(),
    });
    this.#head = { runId, step, sequence, digest };
  }

  /** Keeps a record; when this resolves it is on disk. */
  async append(frames: readonly Uint8Array[], commit: CommitMessage): Promise<void> {
    if (this.#head === null) throw new Error('assertion failed: a record before there is a state');
    const { sequence, step, digest, record } = commit;
    await this.#journal.append(frames, { sequence, step, digest, kind: record.type });
    this.#head = {
      ...{ runId: this.#head.runId, sequence, digest },
      step: record.type === 'update' ? step : this.#head.step,
    };
    this.#follow(commit);
  }

  /** Forgets everything: it is of another run, or not to be trusted. */
  async clear(): Promise<void> {
    this.#head = null;
    this.#bases = [];
    this.#counted = null;
    this.#newest = null;
    await this.#writer?.writer.abandon();
    this.#writer = null;
    this.verified.clear();
    await this.#journal.close();
    for (const name of ['journal', 'checkpoints']) {
      await explaining(`delete ${this.path}`, rm(join(this.path, name), { recursive: true, force: true }));
    }
    this.#journal = await Journal.open(join(this.path, 'journal'), () => {});
  }

  async close(): Promise<void> {
    await this.#writer?.writer.abandon();
    await this.#journal.close();
    await this.#lock.release();
  }

  async #restore(): Promise<void> {
    await removeCheckpointLeftovers(this.checkpointsDir);
    try {
      const checkpoint = await openNewestCheckpoint(this.checkpointsDir, () => {}, this.verified);
      if (checkpoint === null) return await this.clear();
      const { run, path, manifest, step } = checkpoint;
      await checkpoint.close();
      await this.#goOnFrom(run);
      const { weightsSha256 } = manifest;
      const { sequence, created } = run;
      this.#newest = { ...{ path, step, sequence, bytes: 0, feedbackBytes: {} }, weightsSha256, created };
    } catch (error) {
      this.#logger.warn('gateway.folder', {}, `${String(error)}; it is filled anew`);
      await this.clear();
    }
  }

  async #goOnFrom(run: RunJson): Promise<void> {
    const digest = new Uint8Array(Buffer.from(run.digest, 'hex'));
    const journal = this.#journal;
    if (run.sequence < journal.firstSequence - 1) throw new Error(`${journal.path} lacks records`);
    if (run.sequence >= journal.nextSequence) await journal.restartAfter(run.sequence, digest);
    journal.setBaseDigest(digest);
    this.#bases = run.bases ?? [];
    this.#counted = run.counted === undefined ? null : new Map(Object.entries(run.counted));
    const { runId, sequence } = run;
    let { step } = run;
    this.#head = { runId, step, sequence, digest };
    for await (const commit of commitsFrom(journal, sequence + 1)) {
      if (commit.record.type === 'update') ({ step } = commit);
      this.#head = { runId, step, sequence: commit.sequence, digest: commit.digest.slice() };
      this.#follow(commit);
    }
  }

  #follow(commit: CommitMessage): void {
    const { record, step } = commit;
    this.#counted = foldCounted(this.#counted, commit);
    if (record.type !== 'basis') return;
    const chosen = basisFacts(record).flatMap(({ slot, rank }) =>
      rank === null ? [] : [slotBasis(slot, rank, step)],
    );
    const others = this.#bases.filter(({ slot }) => !chosen.some((basis) => basis.slot === slot));
    this.#bases = [...others, ...chosen];
  }
}

/** Of what a coordinator keeps of a basis a gateway needs the rank alone. */
function slotBasis(slot: number, rank: number, refreshedStep: number): SlotBasis {
  return { slot, rank, refreshedStep, gap: 1, similarities: [], firstNorm: null, lastNorm: null };
}

async function openJournal(path: string, logger: Logger): Promise<Journal> {
  const dir = join(path, 'journal');
  try {
    return await Journal.open(dir, (text) => logger.info('gateway.folder', {}, text));
  } catch (error) {
    logger.warn('gateway.folder', {}, `${String(error)}; it is filled anew`);
    await explaining(`delete ${dir}`, rm(dir, { recursive: true, force: true }));
    return await Journal.open(dir, () => {});
  }
}
