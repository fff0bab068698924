/** Actions that are put off, none of which happens any more once they are cleared. SHELL. */
export class Timers {
  readonly #timers = new Set<NodeJS.Timeout>();
  #isCleared = false;

  later(delayMs: number, action: () => void): void {
    if (this.#isCleared) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }

  clear(): void {
    this.#isCleared = true;
    for (const timer of this.#timers) clearTimeout(timer);
  }
}
