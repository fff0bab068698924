/** Which pieces of a step's contributions are here, at the coordinator or a gateway: one that all have sent is summed. */
import type { Clock } from '../clock.ts';
import type { Piece } from './workload.ts';

export class PieceSums {
  readonly step: number;
  readonly pieces: readonly Piece[];
  readonly #clock: Clock;
  readonly #summed: (index: number) => void;
  /** By member, how many of its pieces are here; they come in order. */
  readonly #here: Map<string, number>;
  readonly #counts: number[];
  readonly #lastMs: number[];
  #isVoid = false;
  /** Pieces that are summed and sent on. */
  passed = 0;

  /** @param summed called in order, once for each piece */
  constructor(
    clock: Clock,
    step: number,
    members: readonly string[],
    pieces: readonly Piece[],
    summed: (index: number) => void,
  ) {
    this.#clock = clock;
    this.step = step;
    this.pieces = pieces;
    this.#summed = summed;
    this.#here = new Map(members.map((id) => [id, 0]));
    this.#counts = pieces.map(() => 0);
    this.#lastMs = pieces.map(() => 0);
  }

  /** What was sent on holds somebody who is gone: the sums are made anew when all is here. */
  get isVoid(): boolean {
    return this.#isVoid;
  }

  get members(): readonly string[] {
    return [...this.#here.keys()];
  }

  /** Members of which something is missing. */
  get missing(): readonly string[] {
    return this.members.filter((id) => this.#here.get(id)! < this.pieces.length);
  }

  /** The next piece of a member is here, or will be at `atMs`. */
  add(trainerId: string, atMs: number): void {
    const index = this.#here.get(trainerId);
    if (index === undefined || index >= this.pieces.length) return;
    this.#here.set(trainerId, index + 1);
    this.#lastMs[index] = Math.max(this.#lastMs[index]!, atMs);
    this.#counts[index]! += 1;
    if (this.#isVoid || this.#counts[index]! < this.#here.size) return;
    this.#clock.schedule(this.#lastMs[index]! - this.#clock.nowMs(), () => {
      if (this.#isVoid) return;
      this.passed += 1;
      this.#summed(index);
    });
  }

  /** It is not waited for any longer. */
  drop(trainerId: string): void {
    if (!this.#here.delete(trainerId)) return;
    this.#isVoid = true;
  }

  /** Nothing is sent on any more. */
  abandon(): void {
    this.#isVoid = true;
  }

  /** What comes of this member is to be counted anew. */
  restart(trainerId: string): void {
    if (this.#here.has(trainerId)) this.#here.set(trainerId, 0);
    this.#isVoid = true;
  }
}
