/**
 * What the trainers of a simulated run have sent for the step in work, as the real shell stages it: by
 * step, round and trainer. Asking for something that is not there, or was made from something else than
 * it should, is a violation.
 */
import type { FactorJob, Received, Shard } from '../coordinator/core/state.ts';
import type { Invariants } from './invariants.ts';
import { fold, type Fingerprint, type Provenance } from './messages.ts';

export interface StagingModel {
  stageSketch(step: number, round: number, trainerId: string, from: Provenance): void;
  /** Sums the sketches of these trainers, in their order. */
  sumSketches(step: number, round: number, weights: readonly Received[]): void;
  sumOf(step: number, round: number): Fingerprint;
  stageFactor(
    step: number,
    round: number,
    trainerId: string,
    slots: readonly number[],
    content: Fingerprint,
  ): void;
  /** The factors of a round, each from the trainer whose it is to be. */
  factorsOf(step: number, round: number, slots: readonly number[], jobs: readonly FactorJob[]): Fingerprint;
  stageContribution(step: number, trainerId: string, tokens: number, from: Provenance): void;
  /** The contribution made from exactly this share. */
  contributionOf(step: number, shard: Shard): Fingerprint;
  clear(): void;
}

export function createStaging(invariants: Invariants): StagingModel {
  const sketches = new Map<string, Fingerprint>();
  const sums = new Map<string, Fingerprint>();
  const factors = new Map<string, Fingerprint>();
  const contributions = new Map<string, { content: Fingerprint; positions: readonly number[] }>();

  const demand = <T>(found: T | undefined, otherwise: T, what: string): T => {
    if (found === undefined) invariants.violate(`${what} is not there`);
    return found ?? otherwise;
  };

  return {
    stageSketch(step, round, trainerId, { weights, positions }) {
      sketches.set(`${step}/${round}/${trainerId}`, fold(weights, round, ...positions));
    },
    sumSketches(step, round, weights) {
      const parts = weights.map(({ trainerId }) => {
        const sketch = sketches.get(`${step}/${round}/${trainerId}`);
        return demand(sketch, 0, `the sketch of ${trainerId} for step ${step}, round ${round}`);
      });
      sums.set(`${step}/${round}`, fold(...parts));
    },
    sumOf: (step, round) =>
      demand(sums.get(`${step}/${round}`), 0, `the sum of step ${step}, round ${round}`),
    stageFactor(step, round, trainerId, slots, content) {
      for (const slot of slots) factors.set(`${step}/${round}/${trainerId}/${slot}`, fold(content, slot));
    },
    factorsOf(step, round, slots, jobs) {
      const parts = slots.map((slot) => {
        const owner = jobs.find((job) => job.slots.includes(slot))?.trainerId;
        const factor = factors.get(`${step}/${round}/${owner}/${slot}`);
        return demand(factor, 0, `the factor of slot ${slot} in step ${step}, round ${round}`);
      });
      return fold(...parts);
    },
    stageContribution(step, trainerId, tokens, { weights, positions }) {
      const content = fold(trainerId, tokens, weights, ...positions);
      contributions.set(`${step}/${trainerId}`, { content, positions });
    },
    contributionOf(step, { trainerId, positions }) {
      const nothing = { content: 0, positions };
      const what = `the contribution of ${trainerId} to step ${step}`;
      const staged = demand(contributions.get(`${step}/${trainerId}`), nothing, what);
      if (staged.positions.join() !== positions.join()) {
        const used = staged.positions.join();
        invariants.violate(`step ${step}: ${trainerId} was given ${positions.join()} and has used ${used}`);
      }
      return staged.content;
    },
    clear() {
      for (const map of [sketches, sums, factors, contributions]) map.clear();
    },
  };
}
