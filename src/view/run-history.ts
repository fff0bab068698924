/**
 * The lines of metrics.jsonl and evaluations.jsonl as a page and a monitor want them: a curve of bounded length, the
 * last steps in full, and totals. Pure but for what it remembers, which is bounded.
 */
import { TRAFFIC_KINDS, type TrafficKind } from '../protocol/frame-kind.ts';
import type { EvaluationPoint, RecentStep, StepHistory, StepPoint } from './events.ts';

/** Any line of a file of metrics. */
export type Line = Readonly<Record<string, unknown>> & { readonly step: number };

/** Points of a curve at most; a screen shows no more. */
export const MAX_POINTS = 2048;
/** Steps that are kept in full. */
export const RECENT_STEPS = 20;
/** Weight of the newest step in the mean time of a step. */
const NEWEST_SHARE = 0.2;

/** Sums over all lines. */
export interface Totals {
  steps: number;
  tokens: number;
  seconds: number;
  waitSeconds: number;
  late: number;
  readonly outliers: Map<string, number>;
  readonly traffic: Map<TrafficKind, { up: number; down: number }>;
}

export class RunHistory {
  readonly totals: Totals = {
    ...{ steps: 0, tokens: 0, seconds: 0, waitSeconds: 0, late: 0 },
    outliers: new Map(),
    traffic: new Map(),
  };
  /** Called for each step from here on. */
  onStep: ((step: RecentStep) => void) | null = null;
  #stride = 1;
  #points: StepPoint[] = [];
  #recent: RecentStep[] = [];
  #evaluations: EvaluationPoint[] = [];
  #newestEvaluation: EvaluationPoint | null = null;
  #meanSeconds: number | null = null;
  /** Counts changes of the curve that no point at the end can tell. */
  #revision = 0;

  /** A line of metrics.jsonl. */
  addStep(line: Line): void {
    const step = recentStep(line);
    this.#recent = [...this.#recent.slice(1 - RECENT_STEPS), step];
    this.#addPoint(step);
    const { totals } = this;
    totals.steps = step.step;
    totals.tokens += step.tokens;
    totals.seconds += step.seconds;
    totals.waitSeconds += step.waitSeconds;
    totals.late += step.late.length;
    for (const { action } of step.outliers)
      totals.outliers.set(action, (totals.outliers.get(action) ?? 0) + 1);
    for (const { kind, up, down } of step.traffic) {
      const sums = totals.traffic.get(kind as TrafficKind) ?? { up: 0, down: 0 };
      sums.up += up;
      sums.down += down;
      totals.traffic.set(kind as TrafficKind, sums);
    }
    if (line['restored'] === true) return; // nobody knows how long it took
    this.onStep?.(step);
    this.#meanSeconds =
      this.#meanSeconds === null || step.step <= 2
        ? step.seconds
        : (1 - NEWEST_SHARE) * this.#meanSeconds + NEWEST_SHARE * step.seconds;
  }

  /** A line of evaluations.jsonl. */
  addEvaluation(line: Line): void {
    const point = {
      step: line.step,
      loss: numberOf(line['loss']),
      accuracy: numberOr(line['accuracy'], null),
    };
    this.#newestEvaluation = point;
    this.#evaluations.push(point);
    // The oldest keep their place, and so does the newest.
    if (this.#evaluations.length > MAX_POINTS)
      this.#evaluations = this.#evaluations.filter((_, i, all) => i % 2 === 0 || i === all.length - 1);
  }

  get history(): StepHistory {
    return { stride: this.#stride, points: this.#points, recent: this.#recent };
  }

  get evaluations(): readonly EvaluationPoint[] {
    return this.#evaluations;
  }

  get newestEvaluation(): EvaluationPoint | null {
    return this.#newestEvaluation;
  }

  get newest(): RecentStep | null {
    return this.#recent.at(-1) ?? null;
  }

  /** Mean time of a step, the newer ones more than the older. */
  get secondsPerStep(): number | null {
    return this.#meanSeconds;
  }

  /** Where one who has been told everything stands. */
  get mark(): HistoryMark {
    const { from = 0, to = 0 } = this.#points.at(-1) ?? {};
    return { revision: this.#revision, from, to };
  }

  /** What has come since `mark`: points to go on with, or null if the whole history must be told. */
  since({ revision, from, to }: HistoryMark): readonly StepPoint[] | null {
    if (revision !== this.#revision) return null;
    const first = this.#points.findLastIndex((point) => point.from <= from);
    const news = this.#points.slice(Math.max(first, 0));
    return news[0]?.from === from && news[0].to === to ? news.slice(1) : news;
  }

  #addPoint(step: RecentStep): void {
    const last = this.#points.at(-1);
    if (last !== undefined && step.step - last.from < this.#stride) {
      this.#points[this.#points.length - 1] = merge(last, pointOf(step));
      return;
    }
    if (this.#points.length === MAX_POINTS) this.#halve();
    this.#points.push(pointOf(step));
  }

  #halve(): void {
    this.#stride *= 2;
    this.#revision += 1;
    const pairs: StepPoint[] = [];
    for (let i = 0; i < this.#points.length; i += 2) {
      const [a, b] = this.#points.slice(i, i + 2);
      pairs.push(b === undefined ? a! : merge(a!, b));
    }
    this.#points = pairs;
  }
}

/** See RunHistory.mark. */
export interface HistoryMark {
  readonly revision: number;
  readonly from: number;
  readonly to: number;
}

function pointOf({ step, loss, seconds, tokens, bytesUp, bytesDown }: RecentStep): StepPoint {
  return { from: step, to: step, loss, seconds, tokens, bytesUp, bytesDown };
}

function merge(a: StepPoint, b: StepPoint): StepPoint {
  const [countA, countB] = [a.to - a.from + 1, b.to - b.from + 1];
  const mean = (x: number, y: number): number => (x * countA + y * countB) / (countA + countB);
  return {
    from: a.from,
    to: b.to,
    loss: a.loss === null || b.loss === null ? (a.loss ?? b.loss) : mean(a.loss, b.loss),
    seconds: mean(a.seconds, b.seconds),
    tokens: mean(a.tokens, b.tokens),
    bytesUp: mean(a.bytesUp, b.bytesUp),
    bytesDown: mean(a.bytesDown, b.bytesDown),
  };
}

function recentStep(line: Line): RecentStep {
  const members = objectOf(line['members']);
  return {
    step: line.step,
    loss: numberOr(line['loss'], null),
    tokens: numberOf(line['tokens']),
    seconds: numberOf(line['seconds']),
    waitSeconds: numberOf(line['waitSeconds']),
    bytesUp: numberOf(line['bytesUp']),
    bytesDown: numberOf(line['bytesDown']),
    trainers: numberOf(line['trainers']),
    members: listOf(members['assigned']).filter((id) => typeof id === 'string'),
    learningRate: numberOf(line['learningRate']),
    gradientNorm: numberOr(line['gradientNorm'], null),
    traffic: kindsOf(objectOf(objectOf(line['traffic'])['trainers'])),
    late: listOf(members['late']).filter((id) => typeof id === 'string'),
    outliers: listOf(line['outliers']).map((each) => {
      const { trainerId, action } = objectOf(each);
      return { trainerId: String(trainerId), action: String(action) };
    }),
  };
}

function kindsOf(trainers: Readonly<Record<string, unknown>>): RecentStep['traffic'] {
  const directions = Object.values(trainers).map(objectOf);
  const sumOf = (direction: 'up' | 'down', kind: TrafficKind): number =>
    directions.reduce((sum, each) => sum + numberOf(objectOf(each[direction])[kind]), 0);
  return TRAFFIC_KINDS.map((kind) => ({ kind, up: sumOf('up', kind), down: sumOf('down', kind) })).filter(
    ({ up, down }) => up + down > 0,
  );
}

function numberOr<T>(value: unknown, other: T): number | T {
  return typeof value === 'number' && Number.isFinite(value) ? value : other;
}

function numberOf(value: unknown): number {
  return numberOr(value, 0);
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function objectOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
