/** The feedback rules by slot. */
import { carriesSums, type Slot } from '../slot.ts';
import type { FeedbackRule } from './feedback.ts';
import { payloadFeedback } from './payload.ts';
import { powerFeedback } from './power.ts';

/** The rule of a slot; null: it keeps nothing back. */
export function feedbackOf(slot: Slot): FeedbackRule | null {
  if (!carriesSums(slot)) return null;
  return slot.policy === 'power' ? powerFeedback : payloadFeedback;
}
