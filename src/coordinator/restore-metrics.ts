/**
 * A crash between the journal and metrics.jsonl costs the last lines of the latter. The journal has their
 * numbers, except times and bytes; so there is a line for every committed step again.
 */
import { commitsFrom } from './store/commits.ts';
import type { Journal } from './store/journal.ts';
import type { MetricsLine, MetricsLog } from './store/metrics-log.ts';

/** Appends the lines between the log's last one and `step`, as far as the journal reaches back. */
export async function restoreMetrics(metrics: MetricsLog, journal: Journal, step: number): Promise<void> {
  if (metrics.lastStep >= step) return;
  const lines: MetricsLine[] = [];
  for await (const { record, step: committed } of commitsFrom(journal, journal.firstSequence)) {
    if (record.type !== 'update' || committed <= metrics.lastStep) continue;
    const { tokens, lossSum, learningRate, gradientNorm, members } = record;
    lines.push({
      step: committed,
      loss: lossSum === null ? null : lossSum / tokens,
      tokens,
      seconds: 0,
      bytesUp: 0,
      bytesDown: 0,
      trainers: members.length,
      learningRate,
      gradientNorm,
      restored: true,
    });
  }
  await metrics.appendAll(lines);
}
