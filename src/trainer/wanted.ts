/** Which gradients a trainer needs of the model. Pure. */
import { travels, type Slot } from '../galore/slot.ts';
import type { Wants } from './model/model.ts';

/**
 * Those of the weights whose slot is trained.
 * @param partsOf names of the slots that the weight of a name is made of
 */
export function wantsOf(
  slots: readonly Slot[],
  partsOf: (name: string) => readonly string[] = (name) => [name],
): Wants {
  const trained = new Set(slots.filter(travels).map(({ name }) => name));
  return (name) => partsOf(name).some((part) => trained.has(part));
}
