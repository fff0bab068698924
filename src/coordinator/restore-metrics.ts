/**
 * A crash between the journal and metrics.jsonl costs the last lines of the latter. The journal has their
 * numbers, except times and bytes; so there is a line for every committed step again.
 */
import { decodeEnvelope } from '../protocol/envelope.ts';
import type { Journal } from './store/journal.ts';
import type { MetricsLine, MetricsLog } from './store/metrics-log.ts';

/** Appends the lines between the log's last one and `step`, as far as the journal reaches back. */
export async function restoreMetrics(metrics: MetricsLog, journal: Journal, step: number): Promise<void> {
  if (metrics.lastStep >= step) return;
  const lines: MetricsLine[] = [];
  for await (const frame of journal.frames(journal.firstSequence)) {
    const message = decodeEnvelope(frame, 'coordinator');
    if (message.kind !== 'commit' || message.record.type !== 'update') continue;
    if (message.step <= metrics.lastStep) continue;
    const { tokens, lossSum, learningRate, gradientNorm, members } = message.record;
    lines.push({
      step: message.step,
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
