/**
 * What a page is told of a run that is going on: follows the events and effects of the core, remembers of each trainer
 * what was last held against it, and puts into words what is being done or waited for. Pure but for what it remembers,
 * which is bounded. Whether anybody looks makes no difference to what it does.
 */
import type { RunNow, TrainerView } from '../view/events.ts';
import type { ById } from './core/by-id.ts';
import { describeOutlier } from './core/outliers.ts';
import { pauseNote, pauseOf } from './core/pause.ts';
import type { Effect, Event, RunState, TrainerState } from './core/state.ts';

/** Trainers that have gone and are still shown. */
const MAX_GONE = 32;
/** Ids that are remembered at all: names of trainers come from outside. */
const MAX_KNOWN = 1024;

interface Known {
  readonly reason: string | null;
  readonly reasonStep: number | null;
  readonly lateSteps: number;
  readonly outliers: number;
}

const NOTHING: Known = { reason: null, reasonStep: null, lateSteps: 0, outliers: 0 };

export class RunWatch {
  #state: RunState;
  #note = '';
  /** In the order in which something was last learned of them. */
  readonly #known = new Map<string, Known>();
  #checkpointFault: string | null = null;
  #departures = 0;
  #checkpointFailures = 0;

  constructor(state: RunState) {
    this.#state = state;
  }

  get state(): RunState {
    return this.#state;
  }

  /** Trainers that have left or were sent away. */
  get departures(): number {
    return this.#departures;
  }

  get checkpointFailures(): number {
    return this.#checkpointFailures;
  }

  /** An event was dealt with. */
  see(state: RunState, event: Event, effects: readonly Effect[], note: string | undefined): void {
    const before = this.#state;
    this.#state = state;
    if (note !== undefined) this.#note = note;
    for (const effect of effects) this.#learnOf(effect);
    switch (event.type) {
      case 'trainerJoined':
        return this.#keep(event.trainerId, {});
      case 'trainerLost':
        if (before.trainers.get(event.trainerId) === undefined) return;
        this.#departures += 1;
        return this.#blame(event.trainerId, event.reason);
      case 'checkpointWritten':
        this.#checkpointFault = null;
        return;
      case 'checkpointFailed':
        this.#checkpointFailures += 1;
        this.#checkpointFault = event.reason;
        return;
    }
  }

  #learnOf(effect: Effect): void {
    switch (effect.type) {
      case 'closeConnection':
        this.#departures += 1;
        return this.#blame(effect.trainerId, effect.text);
      case 'rejectStep':
        return this.#blame(effect.trainerId, effect.reason);
      case 'commitUpdate':
        for (const trainerId of effect.attendance.late) {
          const { lateSteps } = this.#known.get(trainerId) ?? NOTHING;
          this.#blame(trainerId, `was late in step ${effect.step}`, { lateSteps: lateSteps + 1 });
        }
        for (const outlier of effect.outliers ?? []) {
          const { trainerId } = outlier;
          const { outliers } = this.#known.get(trainerId) ?? NOTHING;
          this.#blame(trainerId, describeOutlier(outlier), { outliers: outliers + 1 });
        }
    }
  }

  #blame(trainerId: string, reason: string, more: Partial<Known> = {}): void {
    this.#keep(trainerId, { reason, reasonStep: this.#state.step, ...more });
  }

  #keep(trainerId: string, more: Partial<Known>): void {
    const known = { ...NOTHING, ...this.#known.get(trainerId), ...more };
    this.#known.delete(trainerId);
    this.#known.set(trainerId, known);
    if (this.#known.size <= MAX_KNOWN) return;
    const [oldest = ''] = this.#known.keys();
    this.#known.delete(oldest);
  }

  /** How it stands; `sizes` are those of the trainers' last heartbeats. */
  now(
    secondsPerStep: number | null,
    sizes: Readonly<Record<string, { readonly residentBytes: number }>>,
  ): Omit<RunNow, 'viewers'> {
    const state = this.#state;
    const here = new Set(state.trainers.map(({ trainerId }) => trainerId));
    const gone = [...this.#known.keys()].filter((id) => !here.has(id));
    return {
      state: stateWord(state),
      activity: this.#activity(),
      step: state.step,
      secondsPerStep,
      etaSeconds: secondsPerStep === null ? null : secondsPerStep * (state.plan.totalSteps - state.step),
      trainers: [
        ...state.trainers.map((trainer) => ({
          ...this.#viewOf(trainer.trainerId),
          ...measuredOf(trainer),
          residentBytes: sizes[trainer.trainerId]?.residentBytes ?? null,
        })),
        ...gone
          .slice(-MAX_GONE)
          .map((id) => this.#viewOf(id))
          .reverse(),
      ],
      checkpoint: { step: state.checkpointedStep, activity: this.#checkpointActivity() },
    };
  }

  #viewOf(trainerId: string): TrainerView {
    const known = this.#known.get(trainerId) ?? NOTHING;
    const unknown = { trainers: null, sequences: null, answerSeconds: null, residentBytes: null } as const;
    return { trainerId, state: 'gone', ...known, ...unknown };
  }

  #activity(): string {
    const state = this.#state;
    const { phase } = state;
    const pause = pauseOf(state);
    if (pause !== undefined) return pauseNote(pause);
    switch (phase.phase) {
      case 'waiting':
        return this.#note === '' ? 'waiting' : this.#note;
      case 'sketching':
        return `step ${phase.step}: refresh, round ${phase.round}: ${answers('sketches', phase)}`;
      case 'factorising': {
        const open = phase.jobs.filter(({ isDone }) => !isDone).map(({ trainerId }) => trainerId);
        return `step ${phase.step}: refresh, round ${phase.round}: ${names(open)} factorises the sum`;
      }
      case 'collecting':
        return `step ${phase.step}: ${answers('contributions', phase)}`;
      case 'committing':
        return `step ${phase.step}: the ${phase.kind === 'basis' ? 'new bases are' : 'update is'} being written`;
      case 'evaluating':
        return `after step ${phase.step}: held-out loss: waiting for ${names(phase.shards.map(({ trainerId }) => trainerId))}`;
      case 'finishing':
        return phase.outcome === 'completed'
          ? 'all steps are done; the last checkpoint is being made'
          : 'stopping; the last checkpoint is being made';
      case 'finished':
        return phase.outcome === 'completed'
          ? `all ${state.step} steps are done`
          : `stopped after step ${state.step}`;
      default:
        return phase satisfies never;
    }
  }

  #checkpointActivity(): string {
    const { checkpoint, isCheckpointDue } = this.#state;
    if (checkpoint !== null) {
      const { step, trainerId, status, awaited } = checkpoint;
      if (status === 'writing') return `that of step ${step} is being written`;
      const others = awaited.filter((id) => id !== trainerId);
      return `${trainerId} sends the state of step ${step}${others.length === 0 ? '' : `; waiting for ${names(others)}, too`}`;
    }
    if (this.#checkpointFault !== null) return `the last one failed: ${this.#checkpointFault}`;
    return isCheckpointDue ? 'one is due, as soon as a trainer can give it' : 'none is being made';
  }
}

function stateWord(state: RunState): RunNow['state'] {
  const { phase } = state;
  if (pauseOf(state) !== undefined) return 'paused';
  if (phase.phase === 'finished') return phase.outcome;
  if (phase.phase === 'finishing') return 'finishing';
  return phase.phase === 'waiting' ? 'waiting' : 'running';
}

function measuredOf({ status, observed, capacity }: TrainerState) {
  const { sequences, elapsedMs } = observed.at(-1) ?? { sequences: null, elapsedMs: null };
  const answerSeconds = elapsedMs === null ? null : elapsedMs / 1000;
  return { state: status, trainers: capacity ?? null, sequences, answerSeconds } as const;
}

interface Asked {
  readonly shards: readonly { readonly trainerId: string }[];
  readonly received: ById<{ readonly trainerId: string }>;
}

/** "contributions of 1 of 2 trainers are here; waiting for b" */
function answers(what: string, { shards, received }: Asked): string {
  const open = shards.map(({ trainerId }) => trainerId).filter((id) => !received.has(id));
  const here = `${what} of ${received.length} of ${shards.length} trainers are here`;
  return open.length === 0 ? here : `${here}; waiting for ${names(open)}`;
}

function names(ids: readonly string[]): string {
  const shown = ids.slice(0, 3).join(', ');
  return ids.length > 3 ? `${shown} and ${ids.length - 3} more` : shown;
}
