/**
 * A transition being put together: the state so far, the effects and the notes in order. Each rule
 * takes a draft and returns one, so that rules can follow each other within one event.
 */
import type { CloseReason } from '../../protocol/close-codes.ts';
import { pieceSum } from './by-id.ts';
import type { Effect, Event, Phase, Received, RunState, TrainerState, Transition } from './state.ts';

export interface Draft {
  readonly state: RunState;
  readonly effects: readonly Effect[];
  readonly notes: readonly string[];
  /** Connections still to be closed (see advance.ts). */
  readonly expelled: readonly Expulsion[];
  /** Who was heard by this event, until that is written down: with what else changes of it, or at the end. */
  readonly seen: string | null;
}

/** A connection to be closed, and why. */
export interface Expulsion {
  readonly trainerId: string;
  readonly reason: CloseReason;
  readonly text: string;
}

/** One kind of event, by its type. */
export type EventOf<Name extends Event['type']> = Extract<Event, { type: Name }>;
/** One phase, by its name. */
export type PhaseOf<Name extends Phase['phase']> = Extract<Phase, { phase: Name }>;

/** What the phases themselves deal with; everything else is the same in all of them (see advance.ts). */
export type PhaseEvent = EventOf<
  | 'trainerLost'
  | 'sketchReceived'
  | 'factorReceived'
  | 'contributionReceived'
  | 'evaluationReceived'
  | 'recordCommitted'
  | 'recordFailed'
  | 'ticked'
>;
/** A result a trainer sends for a step. */
export type WorkEvent = EventOf<
  'sketchReceived' | 'factorReceived' | 'contributionReceived' | 'evaluationReceived'
>;

export function begin(state: RunState): Draft {
  return { state, effects: [], notes: [], expelled: [], seen: null };
}

export function finish(draft: Draft): Transition {
  const { seen } = draft;
  const { state, effects, notes } = seen === null ? draft : patchTrainer(draft, seen, {});
  return notes.length === 0 ? { state, effects } : { state, effects, note: notes.join('; ') };
}

/** With these fields of the state replaced. */
export function patch(draft: Draft, fields: Partial<RunState>): Draft {
  return { ...draft, state: { ...draft.state, ...fields } };
}

export function enter(draft: Draft, phase: Phase): Draft {
  return patch(draft, { phase });
}

export function emit(draft: Draft, ...effects: readonly Effect[]): Draft {
  return { ...draft, effects: [...draft.effects, ...effects] };
}

export function remark(draft: Draft, note: string): Draft {
  return { ...draft, notes: [...draft.notes, note] };
}

/** Only our own shell can have caused this: a bug, so the process ends and resumes from its journal. */
export function shellFault(text: string): never {
  throw new Error(`assertion failed: ${text}`);
}

/**
 * Closes a trainer's connection. advance.ts does it once the event is dealt with, and takes the trainer
 * out as if it had been lost; one after the other, so that nothing is said to one that is gone.
 */
export function expel(draft: Draft, trainerId: string, reason: CloseReason, text: string): Draft {
  if (draft.expelled.some((expulsion) => expulsion.trainerId === trainerId)) return draft;
  const expelled = [...draft.expelled, { trainerId, reason, text }];
  return remark({ ...draft, expelled }, `${trainerId} is disconnected: ${text}`);
}

export function findTrainer(state: RunState, trainerId: string): TrainerState | undefined {
  return state.trainers.get(trainerId);
}

/** The trainer was heard at this time. */
export function markSeen(draft: Draft, trainerId: string): Draft {
  return { ...draft, seen: trainerId };
}

export function patchTrainer(draft: Draft, trainerId: string, fields: Partial<TrainerState>): Draft {
  return patchTrainers(draft, [trainerId], () => fields);
}

/** The same for several; `fieldsOf` is asked for each of them that is in the run, and null changes nothing. */
export function patchTrainers(
  draft: Draft,
  trainerIds: readonly string[],
  fieldsOf: (trainer: TrainerState) => Partial<TrainerState> | null,
): Draft {
  const { nowMs, trainers: before } = draft.state;
  let { seen } = draft;
  const patched = (trainer: TrainerState): TrainerState => {
    const fields = fieldsOf(trainer);
    if (fields === null) return trainer;
    const { trainerId } = trainer;
    if (trainerId !== seen) return { ...trainer, ...fields };
    seen = null;
    return { ...trainer, ...fields, lastSeenMs: nowMs };
  };
  const trainers = before.changed(trainerIds, patched);
  return trainers === before ? draft : { ...patch(draft, { trainers }), seen };
}

/** Ids of the trainers that can be given work, ascending. */
export function readyTrainers(state: RunState): readonly string[] {
  return state.trainers.filter((trainer) => trainer.status === 'ready').map((trainer) => trainer.trainerId);
}

/** How many trainers share the work of this one: of a gateway those behind it. */
export function capacityOf(state: RunState, trainerId: string): number {
  return findTrainer(state, trainerId)?.capacity ?? 1;
}

const sumReady = pieceSum<TrainerState>(({ status, capacity = 1 }) => (status === 'ready' ? capacity : 0));
const sumOthers = pieceSum<TrainerState>(({ status }) => (status === 'ready' ? 0 : 1));

/** How many trainers can be given work, those behind gateways counted. */
export function countReady(state: RunState): number {
  return sumReady(state.trainers);
}

/** How many connections cannot be given work. */
export function countOthers(state: RunState): number {
  return sumOthers(state.trainers);
}

/** A lagging trainer has caught up; others stay what they are. It takes part from the next step. */
export function markHeard(draft: Draft, trainerId: string): Draft {
  return findTrainer(draft.state, trainerId)?.status === 'lagging' ? becomeReady(draft, trainerId) : draft;
}

/** The trainer can take part from the next step. More trainers: a fruitless step may be tried again at once. */
export function becomeReady(draft: Draft, trainerId: string): Draft {
  return stopPausing(patchTrainer(draft, trainerId, { status: 'ready', laggingSinceMs: null }));
}

/** Membership has changed, so a step without tokens need not be waited out. */
export function stopPausing(draft: Draft): Draft {
  const { phase } = draft.state;
  return phase.phase === 'waiting' ? enter(draft, { ...phase, notBeforeMs: null }) : draft;
}

/** Ascending by trainer id, in code-unit order: the order of all sums. */
export function byTrainerId(a: { readonly trainerId: string }, b: { readonly trainerId: string }): number {
  return a.trainerId < b.trainerId ? -1 : a.trainerId > b.trainerId ? 1 : 0;
}

export function totalTokens(received: Iterable<Pick<Received, 'tokens'>>): number {
  let total = 0;
  for (const { tokens } of received) total += tokens;
  return total;
}

export function isPast(state: RunState, momentMs: number | null): boolean {
  return momentMs !== null && state.nowMs >= momentMs;
}

/** "a, b, c and 4 more" */
export function nameSome(trainerIds: readonly string[]): string {
  const shown = trainerIds.slice(0, 3).join(', ');
  return trainerIds.length > 3 ? `${shown} and ${trainerIds.length - 3} more` : shown;
}

/** "1 step", "2 steps" */
export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** "1.5 s" */
export function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}
