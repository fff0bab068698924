/** What has been told so far, for any number of readers: each gets it from the beginning, and what comes as it comes. */

/** Older ones are forgotten: a reader that is so far behind goes on with the oldest that is kept. */
const MAX_KEPT = 10_000;

export class Backlog<T> implements AsyncIterable<T> {
  readonly #kept: T[] = [];
  #forgotten = 0;
  #end: { readonly error: unknown } | 'ended' | null = null;
  #waiting: (() => void)[] = [];

  add(value: T): void {
    this.#kept.push(value);
    if (this.#kept.length > MAX_KEPT) {
      this.#kept.shift();
      this.#forgotten += 1;
    }
    this.#wake();
  }

  /** Readers end after what has been told. */
  end(): void {
    this.#end ??= 'ended';
    this.#wake();
  }

  /** Readers throw `error` after what has been told. */
  fail(error: unknown): void {
    this.#end ??= { error };
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (let next = 0; ; next += 1) {
      while (next >= this.#forgotten + this.#kept.length) {
        if (this.#end === 'ended') return;
        if (this.#end !== null) throw this.#end.error;
        await new Promise<void>((resolve) => this.#waiting.push(resolve));
      }
      next = Math.max(next, this.#forgotten);
      yield this.#kept[next - this.#forgotten]!;
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
