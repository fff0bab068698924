/**
 * Sends the whole state as it was at one record, beside the steps that go on: it holds its own handles
 * on the tensors (tensors never change, so they cost memory only once a step has replaced them) and
 * hands them to the network thread no faster than that thread sends. What is not kept as a tensor is made when
 * its turn comes.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Link } from './link.ts';
import type { StateValue } from './replica.ts';

/** Bytes handed over ahead of what is sent. */
const AHEAD_BYTES = 4 * 1024 * 1024;

/** What an upload needs of the network thread. */
export type SnapshotLink = Pick<Link, 'drained' | 'sendTensor' | 'send'>;

export class SnapshotUpload {
  readonly #tensors: StateValue[];
  readonly #link: SnapshotLink;
  readonly #step: number;
  readonly #sequence: number;
  /** Index of the next tensor. */
  #next: number;
  #isOver = false;

  /**
   * @param tensors values in the order of the state table, from number `first` on; this object disposes them
   */
  constructor(tensors: StateValue[], link: SnapshotLink, step: number, sequence: number, first = 0) {
    this.#tensors = tensors;
    this.#link = link;
    this.#step = step;
    this.#sequence = sequence;
    this.#next = first;
  }

  /** Sends everything; resolves early when cancelled. */
  async run(): Promise<void> {
    while (this.#tensors.length > 0) {
      await this.#link.drained(AHEAD_BYTES);
      if (this.#isOver) return;
      const value = this.#tensors.shift()!;
      const tensor = typeof value === 'function' ? value() : value;
      const codec = tensor instanceof Uint8Array ? 'u8' : 'f32';
      const bytes = copyOf(tensor);
      if (!(tensor instanceof Uint8Array)) tensor.dispose();
      const header = { stream: 'snapshot', step: this.#step, round: 0, tensor: this.#next++, codec } as const;
      this.#link.sendTensor(header, bytes);
    }
    this.#end();
  }

  /** Gives up what is not sent yet and says so: every request is answered by one SnapshotEnd. */
  cutShort(): void {
    if (this.#isOver) return;
    this.cancel();
    this.#end();
  }

  /** Gives up what is not sent yet. */
  cancel(): void {
    this.#isOver = true;
    tf.dispose(this.#tensors.filter((value) => value instanceof tf.Tensor));
    this.#tensors.length = 0;
  }

  #end(): void {
    this.#isOver = true;
    this.#link.send({ kind: 'snapshotEnd', step: this.#step, sequence: this.#sequence, tensors: [] });
  }
}

/**
 * A copy: of a tensor that no kernel has used yet dataSync gives the array it was made from, and the
 * buffer is handed over to the network thread.
 */
function copyOf(tensor: tf.Tensor | Uint8Array): Uint8Array {
  if (tensor instanceof Uint8Array) return tensor.slice();
  return new Uint8Array(tensor.dataSync<'float32'>().slice().buffer);
}
