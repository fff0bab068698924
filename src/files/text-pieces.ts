/** Text from tokens that come one at a time. Pure. */
import type { Tokenizer } from './tokenizer.ts';

/** What decoders put for bytes that are no whole character yet. */
const REPLACEMENT = '\ufffd';

/** Turns ids into text as they come, holding back characters whose bytes are not complete. */
export class TextPieces {
  readonly #tokenizer: Pick<Tokenizer, 'decode'>;
  readonly #onText: (text: string) => void;
  readonly #ids: number[] = [];
  #given = '';

  constructor(tokenizer: Pick<Tokenizer, 'decode'>, onText: (text: string) => void) {
    this.#tokenizer = tokenizer;
    this.#onText = onText;
  }

  add(id: number): void {
    this.#ids.push(id);
    // All of it is decoded again: what a token looks like may depend on those before it.
    const text = this.#tokenizer.decode(this.#ids);
    if (!text.endsWith(REPLACEMENT)) this.#give(text);
  }

  /** Gives out what was held back. */
  end(): void {
    this.#give(this.#tokenizer.decode(this.#ids));
  }

  #give(text: string): void {
    if (text.length > this.#given.length) this.#onText(text.slice(this.#given.length));
    this.#given = text;
  }
}
