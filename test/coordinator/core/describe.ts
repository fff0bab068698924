// The core's effects and phases as one line of text each, for transcripts and tables.
import { ById } from '../../../src/coordinator/core/by-id.ts';
import type { Effect, Phase, RunState } from '../../../src/coordinator/core/state.ts';

/** `assignStep a step=1 positions=0..1 refreshSlots=- waitMs=10000` */
export function describeEffect(effect: Effect): string {
  const { type, ...rest } = effect;
  const fields: Record<string, unknown> = { ...rest };
  const words: string[] = [type];
  if ('trainerId' in effect) {
    words.push(effect.trainerId);
    delete fields['trainerId'];
  }
  for (const [name, value] of Object.entries(fields)) words.push(`${name}=${describeValue(value)}`);
  return words.join(' ');
}

/** `collecting step=1 shards=a:0..1,b:2..3 received=- deadlineMs=10000` */
export function describePhase({ phase, ...fields }: Phase): string {
  return [phase, ...Object.entries(fields).map(([name, value]) => `${name}=${describeValue(value)}`)].join(
    ' ',
  );
}

/** `a ready, b lagging` */
export function describeTrainers({ trainers }: RunState): string {
  return trainers.length === 0
    ? 'none'
    : trainers.map(({ trainerId, status }) => `${trainerId} ${status}`).join(', ');
}

function describeValue(value: unknown): string {
  if (value instanceof ById) return describeValue([...value]);
  if (Array.isArray(value)) {
    if (value.length === 0) return '-';
    if (value.every((item) => typeof item === 'number')) return describeNumbers(value);
    return value.map(describeValue).join(' ');
  }
  if (typeof value === 'string') return value.includes(' ') ? JSON.stringify(value) : value;
  if (value === null || typeof value !== 'object') return String(value);
  // A trainer's share, result or job: `a:0..1`, `a:8:2.5`. A cursor: `4/-`.
  const parts = Object.values(value).map(describeValue);
  return parts.join('next' in value ? '/' : ':');
}

/** Runs of successive numbers are written `first..last`. */
function describeNumbers(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && last[1] + 1 === number) last[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}..${to}`)).join(',');
}
