/**
 * What a run tells about itself: a line of metrics.jsonl for every committed step, a line of
 * evaluations.jsonl for every evaluation, and the reports that the command line shows.
 */
import type { RunConfig } from '../config/schema.ts';
import type { UpdateRecord } from '../protocol/messages.ts';
import type { AggregationNotice } from './aggregation-notice.ts';
import type { RunReport, Validation } from './api.ts';
import type { Outlier } from './core/outliers.ts';
import type { AgreedHash, Effect, EvaluationPart } from './core/state.ts';
import type { TrafficReport } from './traffic.ts';
import { isDiskFull } from './store/full-disk.ts';
import { copyLines } from './store/line-copies.ts';
import type { MetricsLine, MetricsLog } from './store/metrics-log.ts';

/** Weight of the newest step in the estimate of the time left. */
const NEWEST_SHARE = 0.2;

/** How often lines are tried again for which there was no room. */
const RETRY_INTERVAL_MS = 1000;

/** Totals of the sockets, all trainers together, since the process started. */
export interface SocketTotals {
  readonly bytesReceived: number;
  readonly bytesSent: number;
}

/** Who took part in a step, for people; see core/attendance.ts. */
export type StepAttendance = Extract<Effect, { type: 'commitUpdate' }>['attendance'];

/** What a contribution of the step was, and memory, for the leak checks of long runs. */
export interface StepSizes {
  /** Numbers that a contribution has, over all slots. */
  readonly payloadNumbers: number;
  /** Of the slots with a basis. */
  readonly meanRank: number;
  readonly coordinatorResidentBytes: number;
  /** By trainer id, as the last heartbeats said. */
  readonly sizes: Readonly<Record<string, { residentBytes: number; tensorCount: number }>>;
  /** Since the line before. */
  readonly traffic: TrafficReport;
  /** Of the weights after the step before; null: nobody was asked, or they differ. */
  readonly stateHash: AgreedHash | null;
  /** Contributions that were clipped or left out for their norms. */
  readonly outliers: readonly Outlier[];
  /** Null: every member counts by its tokens. */
  readonly aggregation: AggregationNotice | null;
}

export class RunMetrics {
  readonly #totalSteps: number;
  /** Every trainer measures data of its own. */
  readonly #isLocal: boolean;
  readonly #isClassified: boolean;
  readonly #metrics: MetricsLog;
  readonly #evaluations: MetricsLog;
  readonly #onReport: (report: RunReport) => void;
  readonly #onFailure: (error: unknown) => void;
  #lastMs: number;
  #lastTotals: SocketTotals = { bytesReceived: 0, bytesSent: 0 };
  #averageSeconds: number | null = null;
  #lastLoss: number | null = null;
  #validation: Validation | null = null;
  /** Lines that are not written yet, oldest first; while the disk is full they stay here. */
  readonly #lines: { readonly log: MetricsLog; readonly line: MetricsLine }[] = [];
  #writing: Promise<void> | null = null;
  #triedMs = 0;
  /** Why the line before could not be written; null: it could. */
  #fault: string | null = null;

  constructor(
    { steps, data, task }: Pick<RunConfig, 'steps' | 'data' | 'task'>,
    logs: { readonly metrics: MetricsLog; readonly evaluations: MetricsLog },
    listener: {
      readonly onReport: (report: RunReport) => void;
      /** A line could not be written, and not for want of room. */
      readonly onFailure: (error: unknown) => void;
    },
    nowMs: number,
  ) {
    this.#totalSteps = steps;
    this.#isLocal = data.local;
    this.#isClassified = task.type === 'sequence-classification';
    this.#metrics = logs.metrics;
    this.#evaluations = logs.evaluations;
    this.#onReport = listener.onReport;
    this.#onFailure = listener.onFailure;
    this.#lastMs = nowMs;
  }

  get lastLoss(): number | null {
    return this.#lastLoss;
  }

  get validation(): Validation | null {
    return this.#validation;
  }

  /** The clock of the next step starts here: the first step, or the end of an evaluation. */
  restartClock(nowMs: number): void {
    this.#lastMs = nowMs;
  }

  /**
   * A step is committed. Its bytes are those that passed the sockets since the line before, so the
   * announcement of a step counts in the next line.
   */
  stepCommitted(
    step: number,
    update: UpdateRecord,
    totals: SocketTotals,
    { assigned, late, waitMs }: StepAttendance,
    sizes: StepSizes,
    nowMs: number,
  ): void {
    const { stateHash, outliers, aggregation, ...told } = sizes;
    const seconds = (nowMs - this.#lastMs) / 1000;
    this.#lastMs = nowMs;
    const bytesUp = totals.bytesReceived - this.#lastTotals.bytesReceived;
    const bytesDown = totals.bytesSent - this.#lastTotals.bytesSent;
    this.#lastTotals = { bytesReceived: totals.bytesReceived, bytesSent: totals.bytesSent };
    const loss = update.lossSum === null ? null : update.lossSum / update.tokens;
    this.#lastLoss = loss;
    const { learningRate, tokens, gradientNorm } = update;
    const trainers = update.members.length;
    this.#write(this.#metrics, {
      step,
      loss,
      tokens,
      seconds,
      bytesUp,
      bytesDown,
      trainers,
      members: {
        assigned,
        delivered: update.members.map(({ trainerId }) => trainerId),
        ...(late.length > 0 && { late }),
        ...weightsOf(update),
      },
      waitSeconds: waitMs / 1000,
      learningRate,
      gradientNorm,
      ...told,
      ...(stateHash === null ? {} : { stateHash }),
      ...(outliers.length === 0 ? {} : { outliers }),
      ...(aggregation === null ? {} : { aggregation }),
    });
    this.#averageSeconds =
      this.#averageSeconds === null || step <= 2
        ? seconds
        : (1 - NEWEST_SHARE) * this.#averageSeconds + NEWEST_SHARE * seconds;
    this.#onReport({
      type: 'step',
      step,
      totalSteps: this.#totalSteps,
      loss,
      tokens,
      seconds,
      tokensPerSecond: seconds > 0 ? tokens / seconds : 0,
      bytesUp,
      bytesDown,
      trainers,
      assigned: assigned.length,
      learningRate,
      validation: this.#validation,
      etaSeconds: this.#averageSeconds * (this.#totalSteps - step),
    });
  }

  /** What was measured of the held-out data after a step. */
  evaluated(step: number, parts: readonly EvaluationPart[]): void {
    const { loss, tokens, accuracy } = this.#measured(parts);
    this.#validation = { loss, accuracy };
    const sites = this.#isLocal
      ? {
          sites: Object.fromEntries(
            parts
              .filter(({ tokens }) => tokens > 0)
              .map((part) => [part.trainerId, figures(this.#measured([part]))]),
          ),
        }
      : {};
    this.#write(this.#evaluations, { step, ...figures({ loss, tokens, accuracy }), ...sites });
    this.#onReport({ type: 'evaluation', step, loss, accuracy });
  }

  /** Of all parts together. At least one has a token. */
  #measured(parts: readonly EvaluationPart[]): Measured {
    const sumOf = (amount: (part: EvaluationPart) => number): number =>
      parts.reduce((sum, part) => sum + amount(part), 0);
    const tokens = sumOf((part) => part.tokens);
    const accuracy = this.#isClassified ? sumOf(({ correct = 0 }) => correct) / tokens : null;
    return { loss: sumOf(({ lossSum }) => lossSum) / tokens, accuracy, tokens };
  }

  /** Puts copies of both files into the folder of a checkpoint, with all lines so far that there is room for. */
  async copyTo(folder: string): Promise<readonly string[]> {
    await this.#writing;
    return await copyLines([this.#metrics, this.#evaluations], folder);
  }

  /** To be called now and then: lines for which there was no room are tried again. */
  retry(nowMs: number): void {
    if (this.#lines.length === 0 || nowMs - this.#triedMs < RETRY_INTERVAL_MS) return;
    this.#triedMs = nowMs;
    this.#writeOn();
  }

  /** Tries a last time to write what is not written, before the files are closed. */
  async close(): Promise<void> {
    await this.#writing;
    this.#writeOn();
    await this.#writing;
    const { length: count } = this.#lines;
    if (count === 0) return;
    const text = `${count} lines of ${this.#metrics.path} or beside it are not written: ${this.#fault ?? ''}`;
    this.#onReport({ type: 'notice', text });
  }

  #write(log: MetricsLog, line: MetricsLine): void {
    this.#lines.push({ log, line });
    this.#writeOn();
  }

  #writeOn(): void {
    this.#writing ??= this.#writeLines().finally(() => {
      this.#writing = null;
      if (this.#lines.length > 0 && this.#fault === null) this.#writeOn();
    });
  }

  async #writeLines(): Promise<void> {
    try {
      for (let next = this.#lines[0]; next !== undefined; next = this.#lines[0]) {
        await next.log.append(next.line);
        this.#lines.shift();
      }
      this.#fault = null;
    } catch (error) {
      const isKnown = this.#fault !== null;
      this.#fault = (error as Error).message;
      if (!isDiskFull(error)) return this.#onFailure(error);
      if (!isKnown)
        this.#onReport({ type: 'notice', text: `${this.#fault}; the line is kept until there is room` });
    }
  }
}

interface Measured extends Validation {
  readonly tokens: number;
}

function figures({ loss, tokens, accuracy }: Measured) {
  return { loss, ...(accuracy === null ? { perplexity: Math.exp(loss) } : { accuracy }), tokens };
}

/** What contributions counted by where that was not their tokens, in the order of those who delivered. */
function weightsOf({ members }: UpdateRecord): { readonly weights?: readonly number[] } {
  if (members.every(({ weight }) => weight === undefined)) return {};
  return { weights: members.map(({ tokens, weight = tokens }) => weight) };
}
