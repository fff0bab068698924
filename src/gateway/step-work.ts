/**
 * The work of a step: what the coordinator hands out goes to the trainers in their shares, and what they answer is summed
 * and sent once.
 */
import type { RunConfig } from '../config/schema.ts';
import type { StepDesk } from '../coordinator/step-desk.ts';
import type { TrainerDesk } from '../coordinator/trainer-desk.ts';
import type { SketchRequestMessage, StepAssignmentMessage } from '../protocol/messages.ts';
import { summedContribution } from './core/summed-answers.ts';
import type { EffectOf } from './core/gateway-state.ts';
import type { LeaderLink } from './leader-link.ts';
import { selectSequences } from './split-sequences.ts';

/** What the work is done with. */
export interface StepTools {
  readonly gatewayId: string;
  readonly config: RunConfig;
  readonly steps: StepDesk;
  readonly trainers: Pick<TrainerDesk, 'get'>;
  readonly link: Pick<LeaderLink, 'send' | 'sendTensor'>;
}

export class StepWork {
  readonly #tools: StepTools;
  #assignment: StepAssignmentMessage | null = null;
  #sketchRequest: SketchRequestMessage | null = null;
  /** Of the round before, for the members of the step: they come ahead of the request. */
  #factorFrames: Uint8Array[] = [];

  constructor(tools: StepTools) {
    this.#tools = tools;
  }

  /** What the coordinator wants, before the core hears of it. */
  take(message: StepAssignmentMessage | SketchRequestMessage): void {
    if (message.kind === 'stepAssignment') this.#assignment = message;
    else this.#sketchRequest = message;
  }

  takeFactorFrame(frame: Uint8Array): void {
    this.#factorFrames.push(frame);
  }

  /** The connection is gone on which the request would have come. */
  breakOff(): void {
    this.#factorFrames = [];
  }

  assignStep({ trainerId, step, positions }: EffectOf<'assignStep'>): void {
    const { steps, trainers } = this.#tools;
    const assignment = this.#assignment!;
    const { sequences: all, localExamples, refreshSlots, flushSlots } = assignment;
    const share = { positions, localExamples, refreshSlots, waitMs: 0 };
    steps.assigned({ type: 'assignStep', trainerId, step, ...share }, flushSlots);
    const places = new Map(all?.positions.map((position, place) => [position, place]));
    const own = positions.map((position) => places.get(position)!);
    const sequences = all && selectSequences(all, own);
    trainers.get(trainerId)?.send({ ...assignment, sequences });
  }

  requestSketches({ trainerIds, step, round, slots }: EffectOf<'requestSketches'>): void {
    const { steps, trainers } = this.#tools;
    const { seed } = this.#sketchRequest!;
    const frames = this.#factorFrames;
    this.#factorFrames = [];
    steps.beginRound({ type: 'requestSketches', trainerIds, step, round, slots, jobs: [] });
    for (const trainerId of trainerIds) {
      const session = trainers.get(trainerId);
      session?.sendFrames(frames);
      session?.send({ kind: 'sketchRequest', step, round, slots, seed });
    }
  }

  sendSketches({ step, round, received }: EffectOf<'sendSketches'>): void {
    const { steps, link } = this.#tools;
    const tokens = received.reduce((sum, each) => sum + each.tokens, 0);
    if (tokens > 0) {
      steps.sumSketches({ type: 'sumSketches', step, round, weights: received });
      for (const { tensor, codec, bytes } of steps.sketchSums()) {
        link.sendTensor({ stream: 'sketch', step, round, tensor, codec }, bytes);
      }
    }
    link.send({ kind: 'sketch', step, round, tokens });
  }

  assignFactors(effect: EffectOf<'assignFactors'>): void {
    const { steps, trainers } = this.#tools;
    const { trainerId, step, round, isFinal } = effect;
    const { slots, frames } = steps.beginJob(effect);
    const session = trainers.get(trainerId);
    session?.sendFrames(frames);
    session?.send({ kind: 'factorAssignment', step, round, slots, isFinal });
  }

  sendFactors({ step, round, jobs }: EffectOf<'sendFactors'>): void {
    const { steps, link } = this.#tools;
    const { tensors, zeroSlots, similarities } = steps.settleFactors(jobs);
    for (const { tensor, codec, bytes } of tensors) {
      link.sendTensor({ stream: 'factor', step, round, tensor, codec }, bytes.slice());
    }
    const slots = tensors.map(({ tensor }) => tensor);
    link.send({ kind: 'factor', step, round, slots, zeroSlots, similarities });
  }

  sendContribution({ step, received, shards }: EffectOf<'sendContribution'>): void {
    const { gatewayId, config, steps, link } = this.#tools;
    if (received.length > 0) {
      for (const { tensor, codec, bytes } of steps.sumContributions(gatewayId, step, received)) {
        link.sendTensor({ stream: 'contribution', step, round: 0, tensor, codec }, bytes);
      }
    }
    const isWeighed = config.local_steps.weighting !== 'targets';
    link.send(summedContribution(step, received, shards, isWeighed));
  }
}
