/**
 * What a trainer keeps of a slot for itself: by the slot's feedback, and of its local steps. Pure: the coordinator reads it too, for
 * checkpoints hold it. How it changes is in gradient.ts and payload.ts.
 */
import { innerState } from '../displacement.ts';
import type { StateSpec } from '../optimizer/rule-state.ts';
import { carriesSums, keepsError, payloadShape, type ErrorSlot, type Slot } from '../slot.ts';
import { bufferSpec } from './buffer-spec.ts';

/** The state of its local steps and what feedback keeps. All zeros before the first step; empty: nothing is kept. */
export function localState(slot: Slot): readonly StateSpec[] {
  return [...innerState(slot), ...feedbackState(slot)];
}

/** Whether a trainer keeps anything of a slot for itself. */
export function hasLocalState(slot: Slot): boolean {
  return localState(slot).length > 0;
}

function feedbackState(slot: Slot): readonly StateSpec[] {
  if (!carriesSums(slot)) return [];
  return [keepsError(slot) ? errorSpec(slot) : residualSpec(slot)];
}

/** The error of a slot that keeps whole gradients. */
export function errorSpec({ shape, buffers }: ErrorSlot): StateSpec {
  return bufferSpec('feedback', shape, buffers.feedback);
}

/** What a codec has rounded away; of these slots the payload has the same shape in every step. */
function residualSpec(slot: Slot): StateSpec {
  return { kind: 'residual', shape: payloadShape(slot, 1), dtype: 'f32' };
}
