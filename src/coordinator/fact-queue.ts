/**
 * Facts on their way to a core, one after the other: those that effects cause wait until all effects of the fact before
 * are carried out.
 */
export class FactQueue<F> {
  readonly #take: (fact: F) => void;
  readonly #onFailure: (error: unknown) => void;
  readonly #facts: F[] = [];
  #isTaking = false;
  #isClosed = false;

  /** @param take tells the core and carries out the effects; what it throws goes to `onFailure` */
  constructor(take: (fact: F) => void, onFailure: (error: unknown) => void) {
    this.#take = take;
    this.#onFailure = onFailure;
  }

  put(fact: F): void {
    this.#facts.push(fact);
    if (this.#isTaking || this.#isClosed) return;
    this.#isTaking = true;
    try {
      for (let next = this.#facts.shift(); next !== undefined; next = this.#facts.shift()) this.#take(next);
    } catch (error) {
      this.#onFailure(error);
    } finally {
      this.#isTaking = false;
    }
  }

  /** Nothing is taken any more, but for what is being taken and what that causes. */
  close(): void {
    this.#isClosed = true;
  }
}
