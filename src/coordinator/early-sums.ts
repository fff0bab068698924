/**
 * The sums of a step whose contributions still come in: a slot is summed as soon as every member has
 * delivered it, so that its sum can leave while the trainers compute the next one. They are those of the
 * record if the members deliver what was expected of them, and void otherwise.
 */
import type { Received } from './core/state.ts';
import type { StagedTensor } from './staging.ts';
import type { UpdateSums } from './update-sums.ts';
import { sharesOf, type Weighed } from './weights.ts';

/** A trainer of the step, with its tokens that will count and its weight. */
export interface ExpectedMember extends Weighed {
  readonly trainerId: string;
}

export class EarlySums {
  readonly sums: UpdateSums;
  readonly #members: readonly ExpectedMember[];
  /** Of the sum, in the order of the members. */
  readonly #shares: readonly number[];
  readonly #arrived: (trainerId: string) => ReadonlyMap<number, StagedTensor>;

  /**
   * @param members ascending by trainer id, each with tokens; at least one
   * @param arrived what a trainer has sent so far, by slot, in the order in which it came
   */
  constructor(
    sums: UpdateSums,
    members: readonly ExpectedMember[],
    arrived: (trainerId: string) => ReadonlyMap<number, StagedTensor>,
  ) {
    this.sums = sums;
    this.#members = members;
    this.#shares = sharesOf(members);
    this.#arrived = arrived;
  }

  /** Sums the slots that are here, in the order in which the first member sent them; returns their frames. */
  advance(): readonly Uint8Array[] {
    const contributions = this.#members.map(({ trainerId }, i) => ({
      weight: this.#shares[i]!,
      tensors: this.#arrived(trainerId),
    }));
    const first = this.sums.frames.length;
    for (const index of contributions[0]!.tensors.keys()) {
      if (this.sums.has(index)) continue;
      if (!contributions.every(({ tensors }) => tensors.has(index))) break;
      this.sums.add(index, contributions);
    }
    return this.sums.frames.slice(first);
  }

  /** Whether these are the sums of the record that is to be made. */
  isOf(sequence: number, received: readonly Received[]): boolean {
    return (
      this.sums.place.sequence === sequence &&
      this.#members.length === received.length &&
      this.#members.every(
        ({ trainerId, tokens, weight }, i) =>
          received[i]?.trainerId === trainerId &&
          received[i].tokens === tokens &&
          received[i].weight === weight,
      )
    );
  }
}
