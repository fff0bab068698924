/** Which trainer took part in which steps, and with how much, from update records. Pure. */
import type { UpdateFacts } from './journal-format.ts';

/** Steps without a gap. */
export interface StepSpan {
  readonly from: number;
  readonly to: number;
}

/** What a trainer has done in the records looked at. */
export interface TrainerPart {
  readonly trainerId: string;
  /** Steps that count a contribution of it. */
  readonly steps: number;
  readonly spans: readonly StepSpan[];
  readonly sequences: number;
  readonly tokens: number;
  /** Of all sequences and tokens of these records, 0 to 1. */
  readonly sequenceShare: number;
  readonly tokenShare: number;
}

interface Part {
  readonly spans: { readonly from: number; to: number }[];
  steps: number;
  sequences: number;
  tokens: number;
}

export class MembershipFold {
  readonly #parts = new Map<string, Part>();
  #sequences = 0;
  #tokens = 0;
  #steps: StepSpan | null = null;

  /** Those of the records; null: there was none. */
  get steps(): StepSpan | null {
    return this.#steps;
  }

  /** The next update record. */
  add({ step, members }: UpdateFacts): void {
    this.#steps = { from: this.#steps?.from ?? step, to: step };
    for (const { trainerId, tokens, positions } of members) {
      const part = this.#parts.get(trainerId) ?? { spans: [], steps: 0, sequences: 0, tokens: 0 };
      const last = part.spans.at(-1);
      if (last?.to === step - 1) last.to = step;
      else part.spans.push({ from: step, to: step });
      part.steps++;
      part.sequences += positions.length;
      part.tokens += tokens;
      this.#parts.set(trainerId, part);
      this.#sequences += positions.length;
      this.#tokens += tokens;
    }
  }

  /** Ascending by trainer id. */
  report(): readonly TrainerPart[] {
    return [...this.#parts]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([trainerId, { steps, spans, sequences, tokens }]) => ({
        trainerId,
        steps,
        spans: spans.map((span) => ({ ...span })),
        sequences,
        tokens,
        sequenceShare: sequences / Math.max(1, this.#sequences),
        tokenShare: tokens / Math.max(1, this.#tokens),
      }));
  }
}
