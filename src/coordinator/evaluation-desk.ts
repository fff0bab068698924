/**
 * Held-out sequences on their way to trainers and their losses on the way back. A share may be too
 * large for a message: it travels in portions whose answers are added up.
 */
import type { SequenceSource } from '../files/dataset.ts';
import { readSequences } from '../files/sequences.ts';
import { protocolError } from '../protocol/checks.ts';
import { maxSequencesPerAssignment } from '../protocol/limits.ts';
import type { EvaluationMessage } from '../protocol/messages.ts';
import type { Effect } from './core/state.ts';
import type { Dispatch } from './dispatch.ts';
import type { Session } from './session.ts';

/** The answers to one share so far. */
interface Tally {
  readonly step: number;
  /** Tokens it can honestly declare, at most. */
  readonly mostTokens: number;
  outstanding: number;
  tokens: number;
  lossSum: number;
  /** Null as long as nothing was classified. */
  correct: number | null;
}

const NOTHING = { tokens: 0, lossSum: 0, correct: null };

export class EvaluationDesk {
  readonly #source: SequenceSource | null;
  readonly #seqLen: number;
  readonly #sequenceCount: number;
  readonly #dispatch: Dispatch;
  /** By trainer; it answers its shares in the order it was given them. */
  readonly #tallies = new Map<string, Tally[]>();

  /**
   * @param source what is held out; null: every trainer has data of its own
   * @param sequenceCount sequences of one evaluation; the core numbers them from 0
   */
  constructor(source: SequenceSource | null, seqLen: number, sequenceCount: number, dispatch: Dispatch) {
    this.#source = source;
    this.#seqLen = seqLen;
    this.#sequenceCount = sequenceCount;
    this.#dispatch = dispatch;
  }

  /** Sends a trainer its share. */
  assign(
    { trainerId, step, sequences }: Extract<Effect, { type: 'assignEvaluation' }>,
    session: Session,
  ): void {
    const source = this.#source;
    if (source === null) return this.#assignOwn(trainerId, step, session);
    const portion = maxSequencesPerAssignment(this.#seqLen + 1);
    const earlier = (this.#tallies.get(trainerId) ?? []).filter((tally) => tally.step === step);
    const outstanding = Math.ceil(sequences.length / portion);
    const mostTokens = sequences.length * this.#seqLen;
    this.#tallies.set(trainerId, [...earlier, { ...NOTHING, step, mostTokens, outstanding }]);
    for (let start = 0; start < sequences.length; start += portion) {
      const indices = sequences.slice(start, start + portion).map((number) => this.#spread(number, source));
      session.enqueue(async () => {
        const read = await readSequences(source, indices, indices, this.#seqLen);
        session.connection.send({ kind: 'evaluationAssignment', step, sequences: read });
      });
    }
  }

  #assignOwn(trainerId: string, step: number, session: Session): void {
    this.#tallies.set(trainerId, [{ ...NOTHING, step, mostTokens: Infinity, outstanding: 1 }]);
    session.send({ kind: 'evaluationAssignment', step, sequences: null });
  }

  /**
   * Takes one answer; the last one of a share is reported to the core, and so is one nobody asked for.
   * @throws ProtocolError for more tokens than were assigned
   */
  accept(trainerId: string, { step, tokens, lossSum, correct }: EvaluationMessage): void {
    const tallies = this.#tallies.get(trainerId) ?? [];
    const [tally] = tallies;
    if (tally?.step !== step) {
      return this.#dispatch({ type: 'evaluationReceived', trainerId, step, tokens, lossSum });
    }
    tally.tokens += tokens;
    if (tally.tokens > tally.mostTokens) {
      throw protocolError(
        'INVALID_CONTRIBUTION',
        `${tally.tokens} tokens are declared for the evaluation of step ${step} but only ${tally.mostTokens} were assigned`,
      );
    }
    tally.lossSum += lossSum;
    if (correct !== undefined) tally.correct = (tally.correct ?? 0) + correct;
    tally.outstanding--;
    if (tally.outstanding > 0) return;
    tallies.shift();
    const told = tally.correct === null ? {} : { correct: tally.correct };
    const { tokens: allTokens, lossSum: allLosses } = tally;
    this.#dispatch({
      ...{ type: 'evaluationReceived', trainerId, step, tokens: allTokens, lossSum: allLosses },
      ...told,
    });
  }

  /** The trainer is gone. */
  forget(trainerId: string): void {
    this.#tallies.delete(trainerId);
  }

  /** The sequences of an evaluation lie evenly over all that is held out. */
  #spread(number: number, source: SequenceSource): number {
    return Math.floor((number * source.count) / this.#sequenceCount);
  }
}
