/** A queue between callbacks and a test: `take` waits for what was put, or will be. */
export class Mailbox<T> {
  readonly #items: T[] = [];
  readonly #takers: ((item: T) => void)[] = [];

  put(item: T): void {
    const taker = this.#takers.shift();
    if (taker === undefined) this.#items.push(item);
    else taker(item);
  }

  /** The next item. */
  take(): Promise<T> {
    const item = this.#items.shift();
    if (item !== undefined) return Promise.resolve(item);
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  /** The next item that `isWanted`; those before it are dropped. */
  takeWhere<U extends T>(isWanted: (item: T) => item is U): Promise<U>;
  takeWhere(isWanted: (item: T) => boolean): Promise<T>;
  async takeWhere(isWanted: (item: T) => boolean): Promise<T> {
    for (;;) {
      const item = await this.take();
      if (isWanted(item)) return item;
    }
  }

  /** Items put and not taken. */
  get waiting(): readonly T[] {
    return this.#items;
  }
}
