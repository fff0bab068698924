// Transcripts of the coordinator's core: a text of commands, each followed by everything it caused.
// A line `> command` is an event; the indented lines below it are the effects in order, the note, and
// the phase if it changed. Everything else in the file (comments, blank lines) is kept as it is.
import { advance, initialState } from '../../../src/coordinator/core/advance.ts';
import type { Cursor, Event, RunPlan, RunState } from '../../../src/coordinator/core/state.ts';
import { describeEffect, describePhase, describeTrainers } from './describe.ts';
import { FRESH, PLAN } from './plan.ts';

type Options = ReadonlyMap<string, string>;

/** The text with the output of every command as it is now. */
export function playTranscript(text: string): string {
  let state = initialState(PLAN, FRESH);
  const lines: string[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('  ')) continue; // output of the last time
    lines.push(line);
    if (!line.startsWith('> ')) continue;
    const [verb = '', ...words] = line.slice(2).split(' ');
    if (verb === 'run') {
      state = openRun(words);
    } else if (verb === 'show') {
      lines.push(`  trainers: ${describeTrainers(state)}`);
    } else {
      const before = state;
      for (const event of readEvents(state, verb, words)) {
        const transition = advance(state, event);
        state = transition.state;
        lines.push(...transition.effects.map((effect) => `  ${describeEffect(effect)}`));
        if (transition.note !== undefined) lines.push(`  note: ${transition.note}`);
      }
      if (state.phase.phase !== before.phase.phase) lines.push(`  phase: ${describePhase(state.phase)}`);
    }
  }
  return lines.join('\n');
}

/** `run totalSteps=3 projectedSlots=0,1 from.step=2 from.next=8`: what is not given is as in plan.ts. */
function openRun(words: readonly string[]): RunState {
  const plan: Record<string, unknown> = { ...PLAN };
  const from: Record<string, unknown> = { ...FRESH };
  for (const [name, text] of readOptions(words)) {
    const field = name.replace('from.', '');
    const [target, value] = field === name ? [plan, parse(text)] : [from, parse(text)];
    if (field === 'next') target['cursor'] = { ...(target['cursor'] as Cursor), next: value };
    else if (field === 'returned') target['cursor'] = { ...(target['cursor'] as Cursor), returned: value };
    else if (field === 'outliers')
      target[field] = { action: text.split(':')[0], factor: Number(text.split(':')[1]) };
    else if (field === 'participation')
      target[field] = { share: Number(text.split(':')[0]), seed: Number(text.split(':')[1]) };
    else if (field === 'sharding') target[field] = text;
    else if (field in target) target[field] = value;
    else throw new Error(`the plan has no ${name}`);
  }
  return initialState(plan as unknown as RunPlan, from as unknown as typeof FRESH);
}

/** The event a command stands for; what is not given is what the current phase waits for. */
function readEvents(state: RunState, verb: string, words: readonly string[]): readonly Event[] {
  const { nowMs, phase } = state;
  const names = words.filter((word) => !word.includes('='));
  const options = readOptions(words);
  const [trainerId = ''] = names;
  const number = (name: string, otherwise: number): number => Number(options.get(name) ?? otherwise);
  const current = 'step' in phase ? phase.step : state.step + 1;
  const step = number('step', current);
  const tokens = number('tokens', 10);
  const lossSum = number('loss', 20);
  const norm = options.has('norm') ? { norm: number('norm', 0) } : {};
  const round = number('round', 'round' in phase ? phase.round : 1);
  const rest = (otherwise: string): string => names.slice(1).join(' ') || otherwise;
  switch (verb) {
    case 'join':
      return names.map((name) => ({ type: 'trainerJoined', trainerId: name, nowMs }));
    case 'ready': {
      const sequence = number('sequence', state.sequence);
      return names.map((name) => ({ type: 'trainerReady', trainerId: name, sequence, nowMs }));
    }
    case 'seen':
      return names.map((name) => ({ type: 'trainerSeen', trainerId: name, nowMs }));
    case 'lose':
      return [{ type: 'trainerLost', trainerId, reason: rest('the connection broke'), nowMs }];
    case 'refuse': {
      const reason = rest('its numbers do not fit');
      return [{ type: 'trainerLost', trainerId, reason, isRefused: true, nowMs }];
    }
    case 'sketch':
      return [{ type: 'sketchReceived', trainerId, step, round, tokens, ...norm, nowMs }];
    case 'factor': {
      const jobs = phase.phase === 'factorising' ? phase.jobs : [];
      const job = jobs.find((open) => open.trainerId === trainerId && !open.isDone);
      const slots = options.has('slots') ? readNumbers(options.get('slots') ?? '') : (job?.slots ?? []);
      return [{ type: 'factorReceived', trainerId, step, round, slots, nowMs }];
    }
    case 'contribution':
      return [{ type: 'contributionReceived', trainerId, step, tokens, lossSum, ...norm, nowMs }];
    case 'committed': {
      const kind = phase.phase === 'committing' ? phase.kind : 'update';
      return [{ type: 'recordCommitted', step, kind, sequence: state.sequence + 1, nowMs }];
    }
    case 'full': {
      const kind = phase.phase === 'committing' ? phase.kind : 'update';
      const sequence = state.sequence + 1;
      return [
        { type: 'recordFailed', step, kind, sequence, reason: names.join(' ') || 'the disk is full', nowMs },
      ];
    }
    case 'evaluation':
      return [{ type: 'evaluationReceived', trainerId, step, tokens, lossSum, nowMs }];
    case 'hash': {
      const weightsSha256 = (options.get('sha') ?? '').repeat(64).slice(0, 64);
      return [
        { type: 'stateHashReceived', trainerId, step: number('step', state.step), weightsSha256, nowMs },
      ];
    }
    case 'progress':
      return [{ type: 'snapshotProgressed', trainerId, step: number('step', state.step), nowMs }];
    case 'snapshot':
      return [{ type: 'snapshotReceived', trainerId, step: number('step', state.step), nowMs }];
    case 'written':
      return [{ type: 'checkpointWritten', step: number('step', state.step), nowMs }];
    case 'failed':
      return [
        {
          type: 'checkpointFailed',
          step: number('step', state.step),
          reason: names.join(' ') || 'no space is left',
          isDiskFull: options.get('full') === 'true',
          nowMs,
        },
      ];
    case 'stop':
      return [{ type: 'stopRequested', nowMs }];
    case 'tick':
      return [{ type: 'ticked', nowMs: nowMs + Number(names[0]) }];
    default:
      throw new Error(`no command is called ${verb}`);
  }
}

function readOptions(words: readonly string[]): Options {
  return new Map(
    words
      .filter((word) => word.includes('='))
      .map((word) => {
        const at = word.indexOf('=');
        return [word.slice(0, at), word.slice(at + 1)];
      }),
  );
}

function parse(text: string): unknown {
  if (text === 'true' || text === 'false') return text === 'true';
  if (text === 'all' || text.endsWith('%')) return text;
  return /^\d+$/.test(text) ? Number(text) : readNumbers(text);
}

/** `0,1,5..7`, as the output writes them; `-` is none. A single one needs a trailing comma in a plan. */
function readNumbers(text: string): readonly number[] {
  return text
    .split(',')
    .filter((part) => part !== '' && part !== '-')
    .flatMap((part) => {
      const [first = 0, last = first] = part.split('..').map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
}
