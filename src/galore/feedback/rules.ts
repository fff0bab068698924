/** The feedback rules by slot. */
import { carriesSums, keepsError, type Slot } from '../slot.ts';
import type { FeedbackRule } from './feedback.ts';
import { gradientFeedback } from './gradient.ts';
import { payloadFeedback } from './payload.ts';

/** The rule of a slot; null: it keeps nothing back. */
export function feedbackOf(slot: Slot): FeedbackRule | null {
  if (!carriesSums(slot)) return null;
  return keepsError(slot) ? gradientFeedback : payloadFeedback;
}
