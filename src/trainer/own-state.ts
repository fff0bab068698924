/**
 * `galore trainer --state DIR`: what a trainer keeps for itself (local-states.ts), in files, so that a process that
 * is started again goes on with it. Two of them, for a contribution may be counted while the trainer is gone:
 *   ID-RUN.safetensors       what it keeps after a step that counted it
 *   ID-RUN.next.safetensors  what that will be if the step under way counts; written before its Contribution is sent
 * Which of the two is right the records say, or, of steps before the snapshot, the coordinator (SnapshotHeader.counted_step).
 * A file that cannot be read or written costs nothing but this: the log says so.
 */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { bytesOf, floatsOf } from '../array-bytes.ts';
import { moveState, readState, removeState, writeState, type StoredState } from '../files/state-file.ts';
import type { Slot } from '../galore/slot.ts';
import { localFault, localTensors } from '../galore/state-table.ts';
import type { Logger } from '../log.ts';
import type { LocalStates } from './local-states.ts';
import type { StateArray, StateValue } from './replica.ts';

/** What a snapshot says of the trainer that it is for. */
export interface SnapshotPlace {
  readonly step: number;
  /** The last step that counted the trainer; undefined: not known. */
  readonly countedStep: number | undefined;
  /** Of the snapshot, as `StoredState.bases`. */
  readonly bases: string;
}

/** What was found. */
export interface OwnValues {
  /** The step after which it was kept. */
  readonly step: number;
  /** By name in the table of local tensors. */
  readonly values: ReadonlyMap<string, StateArray>;
}

export class OwnState {
  /** Where it is, for people. */
  readonly path: string;
  readonly #nextPath: string;
  readonly #logger: Logger;
  /** What the process before has left, until this one makes its own. */
  #kept: StoredState | null = null;
  #next: StoredState | null = null;

  constructor(directory: string, runId: string, trainerId: string, logger: Logger) {
    this.path = join(directory, `${trainerId}-${runId}.safetensors`);
    this.#nextPath = join(directory, `${trainerId}-${runId}.next.safetensors`);
    this.#logger = logger;
  }

  /** Reads what the process before has left. */
  load(): void {
    this.#kept = this.#read(this.path);
    this.#next = this.#read(this.#nextPath);
  }

  /** Whether a record after `step` may yet make what was read good. */
  isOfLaterStep(step: number): boolean {
    return (this.#kept?.step ?? 0) > step || (this.#next?.step ?? 0) > step;
  }

  /** What was kept when the snapshot was made, or why that is not known, in words; null: nothing is to be said. */
  atSnapshot(slots: readonly Slot[], { step, countedStep, bases }: SnapshotPlace): OwnValues | string | null {
    if (this.isOfLaterStep(step)) return null;
    if (this.#kept === null && this.#next === null) return `there is no sound ${this.path}`;
    if (countedStep === undefined) return 'the coordinator does not say which step counted this trainer last';
    if (countedStep === 0) return null;
    // Means of moments may have come after the last step that counted it.
    const found = [this.#next, this.#kept].find(
      (state) => state?.step === countedStep || (state === this.#kept && (state?.step ?? 0) > countedStep),
    );
    if (found === undefined || found === null) {
      return `step ${countedStep} counted this trainer last, ${this.path} is of step ${this.#kept?.step ?? 0}`;
    }
    const missed = slots.find(({ averaged }) => {
      const period = averaged?.moments[0]?.period ?? Infinity;
      return Math.floor(step / period) > Math.floor(found.step / period);
    });
    if (missed !== undefined) return `it missed moments that were averaged after step ${found.step}`;
    if (found === this.#next) this.settle(true);
    return this.#values(slots, found, bases);
  }

  /** What is right after the record of a step, or why it is not; null: of that step nothing is here. */
  atRecord(
    slots: readonly Slot[],
    step: number,
    isCounted: boolean,
    bases: string,
  ): OwnValues | string | null {
    if (this.#kept?.step === step) return this.#values(slots, this.#kept, bases);
    if (!isCounted || this.#next?.step !== step) return null;
    this.settle(true);
    return this.#values(slots, this.#next, bases);
  }

  /** Before a Contribution is sent. What the process before has left is needed no longer: this one takes part itself. */
  propose(slots: readonly Slot[], step: number, bases: string, locals: LocalStates): void {
    this.#kept = null;
    this.#next = null;
    this.#try(() => {
      // What an earlier try of the step has left must not stay if this one cannot be written.
      removeState(this.#nextPath);
      this.#write(this.#nextPath, slots, { step, bases }, locals.cloneProposed(slots));
    });
  }

  /** The record of the step came: what was proposed becomes what is kept, or goes. */
  settle(isCounted: boolean): void {
    this.#try(() => {
      if (isCounted) moveState(this.#nextPath, this.path);
      else removeState(this.#nextPath);
    });
  }

  /** The record of the step made of it something that was not proposed. */
  keep(slots: readonly Slot[], step: number, bases: string, locals: LocalStates): void {
    this.#try(() => {
      this.#write(this.path, slots, { step, bases }, locals.clone(slots));
      removeState(this.#nextPath);
    });
  }

  /** Uses `values`, of all local tensors in their order, up. */
  #write(
    path: string,
    slots: readonly Slot[],
    place: Pick<StoredState, 'step' | 'bases'>,
    values: readonly StateValue[],
  ): void {
    try {
      const tensors = localTensors(slots).map(({ name, shape, dtype }, i) => ({
        ...{ name, shape, bytes: bytesOfValue(values[i]!) },
        dtype: dtype === 'u8' ? ('U8' as const) : ('F32' as const),
      }));
      writeState(path, { ...place, tensors });
    } finally {
      tf.dispose(values.filter((value) => value instanceof tf.Tensor));
    }
  }

  #values(slots: readonly Slot[], { step, bases, tensors }: StoredState, wanted: string): OwnValues | string {
    if (bases !== wanted) return `the bases have changed since step ${step}`;
    const given = tensors.map(({ name, dtype, bytes }) => ({
      name,
      codec: dtype === 'F32' ? ('f32' as const) : ('u8' as const),
      totalBytes: bytes.length,
    }));
    const fault = localFault(slots, given);
    if (fault !== null) return fault;
    const values = tensors.map(({ name, dtype, bytes }) => {
      const array = dtype === 'F32' ? floatsOf(bytes as Uint8Array<ArrayBuffer>) : bytes;
      return [name, array] as const;
    });
    return { step, values: new Map(values) };
  }

  #read(path: string): StoredState | null {
    let state: StoredState | null = null;
    this.#try(() => (state = readState(path)));
    return state;
  }

  #try(work: () => void): void {
    try {
      work();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#logger.warn(
        'trainer.state',
        {},
        `${reason}; a trainer that is started again would begin with zeros`,
      );
    }
  }
}

function bytesOfValue(value: StateValue): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (value instanceof tf.Tensor) return bytesOf(value.dataSync<'float32'>());
  throw new Error('assertion failed: what a trainer keeps is made already');
}
