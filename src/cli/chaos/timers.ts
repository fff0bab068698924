/** Actions that are put off, none of which is left when they are cleared. SHELL. */
export class Timers {
  readonly #timers = new Set<NodeJS.Timeout>();

  later(delayMs: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }

  clear(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }
}
