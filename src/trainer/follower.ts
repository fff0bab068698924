/**
 * Follows a run without taking part: the state that a trainer would hold that was sent these frames. What
 * `galore replay` computes with. Frames are those of a snapshot, then those of the journal; no sockets, no thread
 * beside this one.
 */
import * as tf from '@tensorflow/tfjs-core';
import { CheckpointError, ProtocolError } from '../errors.ts';
import { collectWhenGrown } from '../heap.ts';
import { stateTensors, type StateBytes } from '../galore/state-table.ts';
import { decodeEnvelope } from '../protocol/envelope.ts';
import type { CommitMessage, WelcomeMessage } from '../protocol/messages.ts';
import { applyRecord, replicaOf, stateArrayOf } from './apply-record.ts';
import type { Precision } from './engine/device.ts';
import { loadEngine } from './engine/load.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { Inbox } from './inbox.ts';
import type { Replica, StateArray } from './replica.ts';
import { understand, type WelcomedRun } from './welcomed-run.ts';

/** What is followed, and what it is computed on. */
export interface FollowOptions {
  /** With a snapshot, whose frames come first. */
  readonly welcome: WelcomeMessage;
  /** Named in errors: the run directory. */
  readonly path: string;
  readonly precision: Precision;
  readonly threads: number;
  readonly device?: ReadyDevice | undefined;
}

/** The state of a run, up to the last frame taken. */
export interface Follower extends Disposable {
  /**
   * Takes the next frame; returns the Commit of the record that it completes and that is applied now, else null.
   * @throws CheckpointError for one that does not continue the state
   */
  take(frame: Uint8Array): CommitMessage | null;
  /** As in the manifest of a checkpoint, in hexadecimal. */
  weightsSha256(): string;
  /** Every tensor of the state, in the order of the state table; good until the next one. */
  state(): Iterable<StateBytes>;
}

/** Loads the engine, which must be installed. @throws EngineError, CheckpointError */
export type Follow = (options: FollowOptions) => Promise<Follower>;

export const follow: Follow = async ({ welcome, path, precision, threads, device }) => {
  const run = understand(welcome);
  if ('fault' in run) throw new CheckpointError(path, `${path} cannot be replayed: ${run.fault}`);
  await loadEngine({ precision, threads, device });
  return new FollowedRun(run, welcome, path);
};

class FollowedRun implements Follower {
  readonly #run: WelcomedRun;
  readonly #path: string;
  readonly #inbox: Inbox;
  /** Tensors of the snapshot so far, by their names in the state table. */
  readonly #snapshot = new Map<string, StateArray>();
  #replica: Replica | null = null;

  constructor(run: WelcomedRun, welcome: WelcomeMessage, path: string) {
    this.#run = run;
    this.#path = path;
    this.#inbox = new Inbox(welcome, null, run.shape.sizes);
  }

  take(frame: Uint8Array): CommitMessage | null {
    const item = this.#receive(frame);
    switch (item?.type) {
      case 'tensor': {
        const info = this.#run.snapshot?.tensors[item.tensor.tensor];
        if (info !== undefined) this.#snapshot.set(info.name, stateArrayOf(item.tensor));
        return null;
      }
      case 'snapshotEnd':
        this.#replica = replicaOf(this.#run, this.#snapshot);
        this.#snapshot.clear();
        return null;
      case 'record':
        applyRecord(this.#held, this.#run, item.commit, item.tensors);
        collectWhenGrown();
        return item.commit;
      default:
        return null;
    }
  }

  weightsSha256(): string {
    return Buffer.from(this.#held.weightsSha256()).toString('hex');
  }

  *state(): Generator<StateBytes, void, void> {
    const replica = this.#held;
    const values = replica.cloneState();
    try {
      for (const { name } of stateTensors(replica.slots)) {
        const value = values.shift()!;
        const tensor = typeof value === 'function' ? value() : value;
        if (tensor instanceof Uint8Array) {
          yield { name, bytes: tensor };
          continue;
        }
        const numbers = tensor.dataSync<'float32'>();
        tensor.dispose();
        yield { name, bytes: new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength) };
      }
    } finally {
      tf.dispose(values.filter((value) => value instanceof tf.Tensor));
    }
  }

  [Symbol.dispose](): void {
    this.#replica?.dispose();
    this.#replica = null;
  }

  get #held(): Replica {
    if (this.#replica === null) throw new Error('the snapshot has not come whole');
    return this.#replica;
  }

  /** What was sent to a trainer is judged as a trainer does. */
  #receive(frame: Uint8Array) {
    try {
      return this.#inbox.accept(decodeEnvelope(frame, 'coordinator'), frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      throw new CheckpointError(this.#path, `${this.#path} cannot be replayed: ${error.message}`, {
        cause: error,
      });
    }
  }
}
