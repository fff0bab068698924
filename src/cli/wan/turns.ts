/**
 * Which steps of the run are counted, and how its links are then. One run has both kinds of links in turns, so that
 * what else the machine does slows both. Pure.
 */

export type LinkState = 'unshaped' | 'shaped';

/** Steps `first` to `last` are counted; the links change before the steps that are left out before them. */
export interface Turn {
  readonly links: LinkState;
  readonly first: number;
  readonly last: number;
}

/** Steps before the first that counts: every slot is refreshed in the first, memory is found, code is compiled. */
export const WARM_UP_STEPS = 3;
/** Steps left out after the links change: part of the first has the links of before, and TCP finds the new rate. */
export const SETTLING_STEPS = 2;
/** Even, for the steps of power slots are equal in pairs only. */
const TURN_STEPS = 4;

/** @param steps counted of each kind */
export function turnsOf(steps: number): Turn[] {
  const turns: Turn[] = [];
  let before = WARM_UP_STEPS;
  for (let counted = 0; counted < steps; counted += TURN_STEPS) {
    const length = Math.min(TURN_STEPS, steps - counted);
    for (const links of ['unshaped', 'shaped'] as const) {
      // The run begins unshaped, which the warm-up is enough for.
      const first = before + (turns.length === 0 ? 0 : SETTLING_STEPS) + 1;
      turns.push({ links, first, last: first + length - 1 });
      before = first + length - 1;
    }
  }
  return turns;
}

/** Steps that count with such links. */
export function countedSteps(turns: readonly Turn[], links: LinkState): number[] {
  return turns
    .filter((turn) => turn.links === links)
    .flatMap(({ first, last }) => Array.from({ length: last - first + 1 }, (_, i) => first + i));
}
