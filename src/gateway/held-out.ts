/** Held-out sequences on their way from the coordinator to the trainers, and their losses on the way back. */
import type { Session } from '../coordinator/session.ts';
import { protocolError } from '../protocol/checks.ts';
import type { EvaluationMessage, Sequences } from '../protocol/messages.ts';
import type { EffectOf, EvaluationState, GatewayFact } from './core/gateway-state.ts';
import { selectSequences } from './split-sequences.ts';

export class HeldOut {
  readonly #targetsPerSequence: number;
  readonly #dispatch: (fact: GatewayFact) => void;
  /** By job: what the coordinator wants measured; null: what each trainer has itself. */
  readonly #jobs = new Map<number, Sequences | null>();
  #lastJob = 0;
  /** Tokens that each trainer may declare for what it was given, in that order. */
  readonly #mostTokens = new Map<string, number[]>();

  constructor(targetsPerSequence: number, dispatch: (fact: GatewayFact) => void) {
    this.#targetsPerSequence = targetsPerSequence;
    this.#dispatch = dispatch;
  }

  /**
   * Keeps what the coordinator wants measured for as long as the core is at it.
   * @param underWay what the core is at; everything else has been answered, or was given up
   * @returns the number of the job
   */
  keep(sequences: Sequences | null, underWay: readonly Pick<EvaluationState, 'job'>[]): number {
    const isUnderWay = new Set(underWay.map(({ job }) => job));
    for (const job of this.#jobs.keys()) if (!isUnderWay.has(job)) this.#jobs.delete(job);
    this.#jobs.set(++this.#lastJob, sequences);
    return this.#lastJob;
  }

  /** Sends a trainer its share. */
  assign({ trainerId, job, step, sequences: places }: EffectOf<'assignEvaluation'>, session: Session): void {
    const all = this.#jobs.get(job) ?? null;
    const most = places === null ? Infinity : places.length * this.#targetsPerSequence;
    this.#mostTokens.set(trainerId, [...(this.#mostTokens.get(trainerId) ?? []), most]);
    const sequences = all === null || places === null ? null : selectSequences(all, places);
    session.send({ kind: 'evaluationAssignment', step, sequences });
  }

  /** Takes an answer. @throws ProtocolError for more tokens than the trainer was given */
  accept(trainerId: string, { step, tokens, lossSum, correct }: EvaluationMessage): void {
    const most = this.#mostTokens.get(trainerId)?.shift() ?? 0;
    if (tokens > most) {
      const text = `${tokens} tokens are declared for the evaluation of step ${step} but only ${most} were assigned`;
      throw protocolError('INVALID_CONTRIBUTION', text);
    }
    const told = correct === undefined ? {} : { correct };
    this.#dispatch({ type: 'evaluationReceived', trainerId, step, tokens, lossSum, ...told });
  }

  /** The trainer is gone. */
  forget(trainerId: string): void {
    this.#mostTokens.delete(trainerId);
  }
}
