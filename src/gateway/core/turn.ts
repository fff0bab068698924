/**
 * One event being dealt with: the state so far, the effects and the notes in their order. The rules, each in its own
 * file, change it one after the other. What ends a connection has its consequences at once, before the rule goes on.
 */
import type { CloseReason } from '../../protocol/close-codes.ts';
import type {
  BehindState,
  GatewayEffect,
  GatewayEvent,
  GatewayState,
  GatewayTransition,
} from './gateway-state.ts';

/** One kind of event, by its type. */
export type EventOf<T extends GatewayEvent['type']> = Extract<GatewayEvent, { type: T }>;

/** What a lost connection means for all that is under way: of all rules together (advance-gateway.ts). */
export interface Losses {
  readonly loseTrainer: (turn: Turn, trainerId: string) => void;
  readonly loseLeader: (turn: Turn, reason: string) => void;
}

export class Turn {
  readonly #losses: Losses;
  readonly #effects: GatewayEffect[] = [];
  readonly #notes: string[] = [];
  #state: GatewayState;

  constructor(state: GatewayState, losses: Losses) {
    this.#state = state;
    this.#losses = losses;
  }

  get state(): GatewayState {
    return this.#state;
  }

  get transition(): GatewayTransition {
    const note = this.#notes.join('; ');
    return { state: this.#state, effects: this.#effects, ...(note === '' ? {} : { note }) };
  }

  /** Ids of the trainers that can be given work, ascending. */
  get ready(): readonly string[] {
    return this.#state.trainers.filter(({ status }) => status === 'ready').map(({ trainerId }) => trainerId);
  }

  /** Replaces these fields of the state. */
  patch(fields: Partial<GatewayState>): void {
    this.#state = { ...this.#state, ...fields };
  }

  emit(effect: GatewayEffect): void {
    this.#effects.push(effect);
  }

  remark(note: string): void {
    this.#notes.push(note);
  }

  setStatus(trainerIds: readonly string[], status: BehindState['status']): void {
    const trainers = this.#state.trainers.map((trainer) =>
      trainerIds.includes(trainer.trainerId) ? { ...trainer, status } : trainer,
    );
    this.patch({ trainers });
  }

  /** Closes a trainer's connection. */
  expel(trainerId: string, reason: CloseReason, text: string): void {
    this.remark(`${trainerId} is disconnected: ${text}`);
    this.emit({ type: 'closeConnection', trainerId, reason, text });
    this.#losses.loseTrainer(this, trainerId);
  }

  /** Gives up the connection to the coordinator, which then hands out again what it counted on. */
  reconnect(text: string): void {
    if (!this.#state.isUp) return;
    this.emit({ type: 'reconnect', text });
    this.remark(`the connection to the coordinator is given up: ${text}`);
    this.#losses.loseLeader(this, text);
  }
}
