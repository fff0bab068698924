/**
 * Local steps inside a shared subspace: while the basis P stays, a trainer's weight is W0 + lift(D), so D, of
 * the shape of the slot's payload, is all that its optimizer moves and all that travels, and
 * sum p_i (W0 + lift(D_i)) = W0 + lift(sum p_i D_i) exactly. Pure: the coordinator reads it too.
 */
import { ruleState, type StateSpec } from './optimizer/rule-state.ts';
import { payloadShape, type PlainSlot, type Slot } from './slot.ts';

/** Local steps that a trainer's moments have seen; Adam's t. */
export const COUNT_KIND = 'count';

/**
 * The displacement as a slot of its own, whose weight is D: what the rule of the local steps is given.
 * @param scale multiplies its updates
 */
export function displacementSlot(slot: Slot, scale: number = 1): PlainSlot {
  const { name, index, inner = slot.rule } = slot;
  return { name, index, shape: payloadShape(slot, 1), policy: 'dense', rule: inner, scale };
}

/** What a trainer's local steps keep of a slot from one exchange to the next; nothing without local steps, and where they begin anew. */
export function innerState(slot: Slot): readonly StateSpec[] {
  if (slot.inner === undefined || slot.isInnerReset === true) return [];
  const state = ruleState(displacementSlot(slot));
  return state.length === 0 ? [] : [...state, { kind: COUNT_KIND, shape: [1], dtype: 'f32' }];
}
