/**
 * Proves from update records that each sequence is used exactly once an epoch. Pure. Positions of the data order
 * count over all epochs and each epoch is a permutation (files/order.ts), so a position used exactly once is
 * a sequence used exactly once in its epoch. See docs/state.md, "What the journal proves".
 */
import type { Cursor } from '../core/state.ts';
import type { UpdateFacts } from './journal-format.ts';

/** Examples that are told of each kind of fault. */
const MOST_EXAMPLES = 10;

/** A position in the contribution of a trainer. */
export interface PositionUse {
  readonly step: number;
  readonly trainerId: string;
}

/** A position that is used twice or more. */
export interface RepeatedPosition {
  readonly position: number;
  /** In the records looked at. */
  readonly uses: readonly PositionUse[];
  /** Used before these records already, as the cursor before them says. */
  readonly wasUsedBefore: boolean;
  /** To be used again, as the cursor behind them says. */
  readonly isOwed: boolean;
}

/** A position that was handed out and is neither used nor to be used. */
export interface LostPosition {
  readonly position: number;
  /** Whose record should have it; null: the cursor at the end should. */
  readonly step: number | null;
}

/** One epoch, as far as its positions have been handed out. */
export interface EpochCoverage {
  /** From 1; null: the records of the run do not say how many sequences an epoch has. */
  readonly epoch: number | null;
  /** Of the epoch. */
  readonly sequences: number | null;
  /** Used before the records looked at, as the cursor before them says. */
  readonly before: number;
  readonly once: number;
  readonly repeated: number;
  /** Given back and to be used in a coming step. */
  readonly owed: number;
  readonly lost: number;
  /** Not handed out yet. */
  readonly ahead: number | null;
}

/** What the records prove. */
export interface Coverage {
  readonly epochs: readonly EpochCoverage[];
  /** Different positions used in the records looked at. */
  readonly used: number;
  /** Positions used twice or more, or used before. */
  readonly duplicates: number;
  /** Positions lost. */
  readonly missing: number;
  readonly owed: number;
  /** Each position that was handed out is used exactly once, or owed. */
  readonly isExact: boolean;
  /** The first few. */
  readonly firstDuplicates: readonly RepeatedPosition[];
  readonly firstMissing: readonly LostPosition[];
}

export class CoverageFold {
  readonly #start: Cursor;
  readonly #startReturned: ReadonlySet<number>;
  /** The first position that can be used. */
  readonly #base: number;
  #end: Cursor;
  /** The first use of each position, from `#base` on. */
  readonly #uses: (PositionUse | undefined)[] = [];
  /** All uses of positions used twice or more, or that cannot be used. */
  readonly #repeated = new Map<number, PositionUse[]>();
  /** The step in which a position went missing. */
  readonly #lostIn = new Map<number, number>();

  /** @param start the cursor before the first record */
  constructor(start: Cursor) {
    this.#start = start;
    this.#end = start;
    this.#startReturned = new Set(start.returned);
    this.#base = Math.min(start.next, ...start.returned.slice(0, 1));
  }

  /** The next update record. */
  add({ step, members, cursor }: UpdateFacts): void {
    const due = new Set(this.#end.returned);
    for (let position = this.#end.next; position < cursor.next; position++) due.add(position);
    for (const { trainerId, positions } of members) {
      const use = { step, trainerId };
      for (const position of positions) {
        due.delete(position);
        this.#use(position, use, cursor.next);
      }
    }
    for (const position of cursor.returned) due.delete(position);
    for (const position of due) this.#lostIn.set(position, step);
    this.#end = cursor;
  }

  /** @param epochSequences of an epoch; null: not known */
  report(epochSequences: number | null): Coverage {
    const owed = new Set(this.#end.returned);
    for (const position of owed) {
      const isUsed = this.#uses[position - this.#base] !== undefined || this.#wasUsedBefore(position);
      if (isUsed && !this.#repeated.has(position)) this.#repeated.set(position, this.#usesOf(position));
    }
    const missing: LostPosition[] = [];
    const epochs: EpochCoverage[] = [];
    for (const { epoch, first, end } of epochSpans(this.#base, this.#end.next, epochSequences)) {
      const counts = { before: 0, once: 0, repeated: 0, owed: 0, lost: 0 };
      for (let position = first; position < end; position++) {
        const state = this.#stateOf(position, owed);
        counts[state]++;
        if (state === 'lost') missing.push({ position, step: this.#lostIn.get(position) ?? null });
      }
      const ahead = epochSequences === null ? null : first + epochSequences - end;
      epochs.push({ epoch, sequences: epochSequences, ...counts, ahead });
    }
    const repeated = [...this.#repeated].sort(([a], [b]) => a - b);
    return {
      epochs,
      used: this.#uses.reduce((count, use) => count + (use === undefined ? 0 : 1), 0),
      duplicates: repeated.length,
      missing: missing.length,
      owed: owed.size,
      isExact: repeated.length === 0 && missing.length === 0,
      firstDuplicates: repeated.slice(0, MOST_EXAMPLES).map(([position, uses]) => ({
        position,
        uses,
        wasUsedBefore: this.#wasUsedBefore(position),
        isOwed: owed.has(position),
      })),
      firstMissing: missing.slice(0, MOST_EXAMPLES),
    };
  }

  /** @param next the first position that is not handed out in this step */
  #use(position: number, use: PositionUse, next: number): void {
    const index = position - this.#base;
    const first = this.#uses[index];
    const isPossible = position < next && !this.#wasUsedBefore(position);
    if (isPossible) this.#uses[index] ??= use;
    const earlier = this.#repeated.get(position) ?? (first === undefined ? [] : [first]);
    if (!isPossible || earlier.length > 0) this.#repeated.set(position, [...earlier, use]);
  }

  #wasUsedBefore(position: number): boolean {
    return position < this.#start.next && !this.#startReturned.has(position);
  }

  #usesOf(position: number): PositionUse[] {
    const use = this.#uses[position - this.#base];
    return use === undefined ? [] : [use];
  }

  #stateOf(position: number, owed: ReadonlySet<number>): 'before' | 'once' | 'repeated' | 'owed' | 'lost' {
    if (this.#repeated.has(position)) return 'repeated';
    if (this.#wasUsedBefore(position)) return 'before';
    if (this.#uses[position - this.#base] !== undefined) return 'once';
    return owed.has(position) ? 'owed' : 'lost';
  }
}

/** The epochs of the positions from `base` to before `end`; each from its own first position on. */
function* epochSpans(
  base: number,
  end: number,
  sequences: number | null,
): Generator<{ readonly epoch: number | null; readonly first: number; readonly end: number }> {
  if (base >= end) return;
  if (sequences === null) return yield { epoch: null, first: base, end };
  for (let first = base - (base % sequences); first < end; first += sequences) {
    yield { epoch: first / sequences + 1, first, end: Math.min(end, first + sequences) };
  }
}
