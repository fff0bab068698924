/**
 * What a run shows of itself: one status line that is redrawn on a terminal, plain lines elsewhere.
 * This file decides the words; display.ts puts them on the screen. Pure.
 */
import type { RunReport, RunSummary, StepReport, Validation } from '../coordinator/api.ts';
import { printable } from '../log.ts';
import { formatBytes, formatCount, formatDuration, formatLoss, formatPerplexity } from './format.ts';

/** The status line of a terminal. */
export function statusLine(report: StepReport): string {
  return [
    `step ${report.step}/${report.totalSteps}`,
    `loss ${report.loss === null ? 'not told' : formatLoss(report.loss)}`,
    ...(report.validation === null ? [] : [shortValidation(report.validation, ' ')]),
    `${formatCount(report.tokensPerSecond)} tok/s`,
    `${formatBytes(report.bytesUp)} up ${formatBytes(report.bytesDown)} down per step`,
    report.assigned > report.trainers
      ? `${report.trainers} of ${plural(report.assigned, 'trainer')}`
      : plural(report.trainers, 'trainer'),
    ...(report.step < report.totalSteps ? [`${formatDuration(report.etaSeconds)} left`] : []),
  ].join(' · ');
}

/** The same facts for a file or a pipe: name and value in turn, ASCII only, made to be searched. */
export function stepLine(report: StepReport): string {
  return [
    `step ${report.step}/${report.totalSteps}`,
    `loss ${report.loss === null ? '-' : Number.isFinite(report.loss) ? report.loss.toFixed(4) : report.loss}`,
    ...(report.validation === null ? [] : [shortValidation(report.validation, '_')]),
    `lr ${Number(report.learningRate.toPrecision(4))}`,
    `tok/s ${formatCount(report.tokensPerSecond)}`,
    `up ${formatBytes(report.bytesUp)}`,
    `down ${formatBytes(report.bytesDown)}`,
    `trainers ${report.trainers}${report.assigned > report.trainers ? `/${report.assigned}` : ''}`,
    `left ${formatDuration(report.etaSeconds)}`,
  ].join('  ');
}

/** A line that stays, or null for reports that only move the status line. */
export function permanentLine(report: RunReport, shownPath: (path: string) => string): string | null {
  switch (report.type) {
    case 'evaluation':
      return `evaluation at step ${report.step}: loss ${report.loss.toFixed(4)}, ${longValidation(report)}`;
    case 'checkpoint':
      return `checkpoint of step ${report.step}: ${printable(shownPath(report.path))}`;
    case 'notice':
      return printable(report.text);
    case 'step':
    case 'progress':
      return null;
  }
}

/** `tokenising the data  40%`. */
export function progressLine(report: Extract<RunReport, { type: 'progress' }>): string {
  const percent = Math.round(100 * Math.min(1, Math.max(0, report.share)));
  return `${printable(report.text)}  ${percent}%`;
}

/** Runs of up to this many steps print every one of them. */
const FEW_STEPS = 100;
const STRIDES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const;

/** Every how many steps a plain line is printed: about one a second at most in a long, fast run. */
export function stepStride(totalSteps: number, secondsPerStep: number): number {
  if (totalSteps <= FEW_STEPS || !(secondsPerStep > 0)) return 1;
  return STRIDES.find((stride) => stride * secondsPerStep >= 1) ?? 1000;
}

/** Whether the plain line of this step is printed: the first, the last, and every n-th. */
export function printsStep(report: StepReport): boolean {
  if (report.step === 1 || report.step === report.totalSteps) return true;
  return report.step % stepStride(report.totalSteps, report.seconds) === 0;
}

/** The last words of a run. `path` shortens file names, `resume` and `generate` are commands to type. */
export function summaryLines(
  summary: RunSummary,
  words: { readonly path: (path: string) => string; readonly resume: string; readonly generate: string },
): readonly string[] {
  const checkpoint =
    summary.checkpointPath === null ? [] : [`checkpoint: ${words.path(summary.checkpointPath)}`];
  const sha = summary.weightsSha256 === null ? [] : [`weights sha256: ${summary.weightsSha256}`];
  if (summary.outcome === 'stopped') {
    return [
      `stopped after step ${summary.step} of ${summary.totalSteps}`,
      ...checkpoint,
      ...sha,
      `to go on: ${words.resume}`,
    ];
  }
  const validation = summary.validation === null ? '' : `, validation ${longValidation(summary.validation)}`;
  // A run that was complete when it was resumed has made no step now.
  const loss = Number.isNaN(summary.lastLoss) ? '' : `, loss ${summary.lastLoss.toFixed(4)}`;
  return [
    `done: ${plural(summary.step, 'step')}${loss}${validation}`,
    ...checkpoint,
    ...sha,
    `to try it: ${words.generate}`,
  ];
}

function shortValidation({ loss, accuracy }: Validation, gap: string): string {
  if (accuracy !== null) return `val${gap}acc ${percent(accuracy)}`;
  return `val${gap}ppl ${formatPerplexity(Math.exp(loss))}`;
}

function longValidation({ loss, accuracy }: Validation): string {
  return accuracy === null
    ? `perplexity ${formatPerplexity(Math.exp(loss))}`
    : `accuracy ${percent(accuracy)}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`;
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`;
}
