/** Publications of which a few are on their way to the server at once. */
export class Publications {
  readonly #window: number;
  readonly #answers: Promise<void>[] = [];
  #failed: unknown = null;

  /** @param window how many may be unanswered */
  constructor(window: number) {
    this.#window = window;
  }

  /** The first error so far; null: none. After it nothing more should be published. */
  get failed(): unknown {
    return this.#failed;
  }

  /** How many were published. */
  get count(): number {
    return this.#answers.length;
  }

  /** One more is on its way; resolves when there is room for another. */
  async add(answer: Promise<unknown>): Promise<void> {
    const noted = answer.then(
      () => {},
      (error: unknown) => {
        this.#failed ??= error;
      },
    );
    this.#answers.push(noted);
    if (this.count >= this.#window) await this.#answers[this.count - this.#window];
  }

  /** Resolves when all have been answered, or have failed; the first error, or null. */
  async settled(): Promise<unknown> {
    await Promise.all(this.#answers);
    return this.#failed;
  }
}
