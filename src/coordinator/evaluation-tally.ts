/**
 * Held-out sequences are given to a trainer in portions that fit a message; this adds up the answers
 * until the trainer has done all of its share.
 */
export class EvaluationTally {
  readonly step: number;
  #outstanding: number;
  #tokens = 0;
  #lossSum = 0;

  /** @param portions how many answers will come */
  constructor(step: number, portions: number) {
    this.step = step;
    this.#outstanding = portions;
  }

  /** Adds one answer; returns the total with the last one, otherwise null. */
  add(tokens: number, lossSum: number): { readonly tokens: number; readonly lossSum: number } | null {
    this.#tokens += tokens;
    this.#lossSum += lossSum;
    this.#outstanding--;
    return this.#outstanding === 0 ? { tokens: this.#tokens, lossSum: this.#lossSum } : null;
  }
}
