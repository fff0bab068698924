/** Tells those who listen in this process; nobody is waited for, nothing is kept. */
export class EventHub<T> {
  readonly #listeners = new Set<(event: T) => void>();

  tell(event: T): void {
    for (const listener of this.#listeners) listener(event);
  }

  /** What is told from now on, until `signal` is aborted. */
  told(signal: AbortSignal): AsyncGenerator<T, void, void> {
    const queue: T[] = [];
    let wake = (): void => {};
    const listener = (event: T): void => {
      queue.push(event);
      wake();
    };
    const stop = (): void => {
      this.#listeners.delete(listener);
      wake();
    };
    this.#listeners.add(listener);
    signal.addEventListener('abort', stop, { once: true });
    const read = async function* (): AsyncGenerator<T, void, void> {
      try {
        while (!signal.aborted) {
          if (queue.length > 0) yield queue.shift()!;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      } finally {
        stop();
        signal.removeEventListener('abort', stop);
      }
    };
    return read();
  }
}
