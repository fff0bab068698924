/**
 * What a trainer keeps for itself from step to step (error feedback, moments of local steps): in memory, and with
 * --state in files too. Which of the copies is right after a snapshot or a record is decided here, and said.
 */
import type { RunConfig } from '../config/schema.ts';
import { hasLocalState } from '../galore/feedback/local-state.ts';
import { momentsIn } from '../galore/slot.ts';
import { localFault } from '../galore/state-table.ts';
import type { Logger } from '../log.ts';
import type { UpdateRecord } from '../protocol/messages.ts';
import type { AssembledTensor } from '../protocol/parts.ts';
import { stepTargets } from '../run-shape.ts';
import { LocalStates } from './local-states.ts';
import { OwnState, type OwnValues } from './own-state.ts';
import { tensorsGiven, type Replica, type StateArray } from './replica.ts';
import type { WelcomedRun } from './welcomed-run.ts';

export interface KeptStateOptions {
  readonly trainerId: string;
  /** --state */
  readonly stateDir?: string | undefined;
  readonly logger: Logger;
}

export class KeptState {
  /** In memory. */
  readonly locals = new LocalStates();
  readonly #options: KeptStateOptions;
  /** With --state, where the run has anything to keep. */
  #own: OwnState | null = null;
  #replica: Replica | null = null;
  /** The last committed one. */
  #step = 0;
  /** The last step that `#own` was given something of by this process; 0: none. */
  #proposedStep = 0;
  /** Of the bases there are; null: to be made when it is asked for. */
  #basesSha256: string | null = null;

  constructor(options: KeptStateOptions) {
    this.#options = options;
  }

  /** After a snapshot: what the checkpoint (`local`) or --state has of this very trainer; without it everything held back is lost. */
  restore(run: WelcomedRun, replica: Replica, step: number, local: ReadonlyMap<string, StateArray>): void {
    const { slots } = replica;
    const { stateDir, trainerId, logger } = this.#options;
    this.#replica = replica;
    this.#step = step;
    this.#own = null;
    this.#basesSha256 = null;
    this.#proposedStep = 0;
    if (!slots.some(hasLocalState)) return;
    if (stateDir !== undefined) {
      this.#own = new OwnState(stateDir, run.runId, trainerId, logger);
      this.#own.load();
    }
    if (step === 0) return;
    const given = tensorsGiven(local);
    const fault =
      given.length === 0 ? `no checkpoint of step ${step} has any of it` : localFault(slots, given);
    if (fault === null) {
      this.locals.restore(slots, local);
      return this.#say(step, `goes on with what it had kept of its gradients after step ${step}`);
    }
    if (this.#own === null) return this.#sayItIsLost(step, fault);
    const { countedStep } = run.snapshot ?? {};
    this.#take(step, this.#own.atSnapshot(slots, { step, countedStep, bases: this.#basesHash() }));
  }

  /** With --state: what is kept if the step counts, before anyone can count it. */
  propose(step: number): void {
    if (this.#own === null) return;
    this.#own.propose(this.#replica!.slots, step, this.#basesHash(), this.locals);
    this.#proposedStep = step;
  }

  /** Some slot has another basis, or is about to. */
  basesChange(): void {
    this.#basesSha256 = null;
  }

  /** After the replica has applied the update: what is kept is from now on that after its step. */
  updated(config: RunConfig, step: number, record: UpdateRecord, tensors: readonly AssembledTensor[]): void {
    const { trainerId } = this.#options;
    const isCounted = record.members.some((member) => member.trainerId === trainerId);
    this.#decide(config, step, isCounted, record.tokens, tensors);
    const renewed = this.#replica!.renewedSlots(step);
    this.locals.forget(renewed);
    if (renewed.length > 0) this.basesChange();
    this.#step = step;
  }

  dispose(): void {
    this.locals.dispose();
    this.#replica = null;
  }

  #decide(
    config: RunConfig,
    step: number,
    isCounted: boolean,
    tokens: number,
    tensors: readonly AssembledTensor[],
  ): void {
    const { slots } = this.#replica!;
    const own = this.#own;
    const isGood = this.locals.decide(step, isCounted);
    const found = own?.atRecord(slots, step, isCounted, this.#basesHash()) ?? null;
    if (!this.#take(step, found) && !isGood && own?.isOfLaterStep(step) !== true) {
      this.#sayItIsLost(step, 'another process made the contribution that counted');
    }
    this.#takeMeans(config, step, tokens, tensors);
    if (own === null || this.#proposedStep === 0) return;
    if (slots.some((slot) => momentsIn(slot, step).length > 0)) {
      own.keep(slots, step, this.#basesHash(), this.locals);
    } else if (this.#proposedStep === step) {
      own.settle(isCounted);
    }
  }

  /** Of moments of local steps, where the update has them: also if this trainer had no part in it. */
  #takeMeans(config: RunConfig, step: number, tokens: number, tensors: readonly AssembledTensor[]): void {
    const share = tokens / stepTargets(config);
    const bySlot = new Map(tensors.map((tensor) => [tensor.tensor, tensor]));
    const options = { betas: config.optimizer.betas, localSteps: config.local_steps.count };
    this.locals.takeMeans(this.#replica!.slots, step, bySlot, share, options);
  }

  /** Goes on with what --state has, if it has it. Whether anything was said of it. */
  #take(step: number, found: OwnValues | string | null): boolean {
    if (found === null) return false;
    if (typeof found === 'string') {
      this.#sayItIsLost(step, found);
      return true;
    }
    this.locals.restore(this.#replica!.slots, found.values);
    const where = `after step ${found.step} (${this.#own!.path})`;
    this.#say(step, `goes on with what it had kept for itself ${where}`);
    return true;
  }

  #basesHash(): string {
    this.#basesSha256 ??= this.#replica!.basesSha256(this.#step);
    return this.#basesSha256;
  }

  #sayItIsLost(step: number, reason: string): void {
    this.#say(step, `what it keeps of its gradients begins with zeros after step ${step}: ${reason}`);
  }

  #say(step: number, text: string): void {
    this.#options.logger.info('trainer.feedback', { step }, text);
  }
}
