/**
 * What trainers sent for a step against each other: a norm far beyond the median of the quorum is taken down to the
 * border (clip) or left out (reject). Pure. With fewer than three there is no telling who is the odd one out, and
 * nobody is judged. See docs/security.md, "Hostile peers".
 */
import { normBorder } from '../../galore/aggregate/norm-filter.ts';
import type { OutlierPlan, Received } from './state.ts';

/** One whose norm was too large. */
export interface Outlier {
  readonly trainerId: string;
  readonly norm: number;
  readonly median: number;
  readonly action: OutlierPlan['action'];
}

/** Who counts, with `scale` where it was clipped, and who did not or not wholly. */
export interface Judgement {
  readonly kept: readonly Received[];
  readonly outliers: readonly Outlier[];
}

/** @param received those with tokens, in any order; one without a norm is not judged */
export function judgeNorms(plan: OutlierPlan | null, received: readonly Received[]): Judgement {
  const norms = received.flatMap(({ norm }) => norm ?? []);
  const border = plan === null ? null : normBorder(norms, plan.factor);
  if (plan === null || border === null) return { kept: received, outliers: [] };
  const { action } = plan;
  const { median, most } = border;
  const outliers = received.flatMap(({ trainerId, norm = 0 }): Outlier[] =>
    norm > most ? [{ trainerId, norm, median, action }] : [],
  );
  const isOutlier = new Set(outliers.map(({ trainerId }) => trainerId));
  const kept = received.flatMap((each): Received[] => {
    if (!isOutlier.has(each.trainerId)) return [each];
    return action === 'clip' ? [{ ...each, scale: most / each.norm! }] : [];
  });
  return { kept, outliers };
}

/** "812 is 203 times the median of the step's trainers (4)" */
export function describeOutlier({ norm, median }: Outlier): string {
  return `its norm, ${shorten(norm)}, is ${shorten(norm / median)} times the median of the step's trainers (${shorten(median)})`;
}

function shorten(value: number): string {
  return String(Number(value.toPrecision(3)));
}
