/**
 * Buffers of tensors that are used again. A step moves its whole payload through every thread; allocated anew each
 * time it is paid for twice, in fresh pages and in collections of garbage. Tensors of a run have the same lengths
 * from step to step, so a buffer serves a request of exactly its length. Pure.
 */
export class BufferPool {
  /** Free buffers in the order in which they were given. */
  readonly #free: Uint8Array<ArrayBuffer>[] = [];
  #bytesHeld = 0;

  /** Bytes of the free buffers. */
  get bytesHeld(): number {
    return this.#bytesHeld;
  }

  /** An array with a buffer of its own (offset 0). What is in it is left over from earlier. */
  take(byteLength: number): Uint8Array<ArrayBuffer> {
    const index = this.#free.findIndex(({ length }) => length === byteLength);
    const [found] = index < 0 ? [] : this.#free.splice(index, 1);
    if (found === undefined) return new Uint8Array(byteLength);
    this.#bytesHeld -= byteLength;
    return found;
  }

  /**
   * Takes buffers back, which nobody may use any more, and keeps at most `maxBytes`: the oldest go. Parts of
   * larger buffers are not kept.
   */
  give(arrays: Iterable<Uint8Array>, maxBytes: number): void {
    for (const bytes of arrays) {
      if (!isWhole(bytes)) continue;
      this.#free.push(bytes);
      this.#bytesHeld += bytes.length;
    }
    while (this.#bytesHeld > maxBytes) this.#bytesHeld -= this.#free.shift()!.length;
  }
}

function isWhole(bytes: Uint8Array): bytes is Uint8Array<ArrayBuffer> {
  return bytes.buffer instanceof ArrayBuffer && bytes.length > 0 && bytes.length === bytes.buffer.byteLength;
}
