/** Counts lines that were left out, by fault, and says so in one sentence. Bounded, however many there are. */
import type { BadLine } from './jsonl.ts';

/** Line numbers shown of each fault. */
const MAX_SHOWN_LINES = 5;

interface Fault {
  count: number;
  readonly firstLines: number[];
}

/** The lines of one file that were left out. */
export class BadLines {
  readonly #faults = new Map<string, Fault>();
  #count = 0;

  get count(): number {
    return this.#count;
  }

  add({ line, fault }: BadLine): void {
    const entry = this.#faults.get(fault) ?? { count: 0, firstLines: [] };
    entry.count++;
    if (entry.firstLines.length < MAX_SHOWN_LINES) entry.firstLines.push(line);
    this.#faults.set(fault, entry);
    this.#count++;
  }

  /** Such as "3 lines were left out: 2 with no JSON (lines 4, 9), 1 with an unknown label (line 7)". */
  describe(): string {
    const faults = [...this.#faults].map(([fault, { count, firstLines }]) => {
      const shown = `${firstLines.join(', ')}${count > firstLines.length ? ', …' : ''}`;
      return `${count} with ${fault} (line${count > 1 ? 's' : ''} ${shown})`;
    });
    const what = this.#count === 1 ? '1 line was' : `${this.#count} lines were`;
    return `${what} left out: ${faults.join(', ')}`;
  }
}
