/** What the contributions of a step count by (`local_steps.weighting`), and so how much of the sum each one is. Pure. */
import type { RunConfig } from '../config/schema.ts';

/** A contribution, as far as it has to be known for that. */
export interface Weighed {
  readonly tokens: number;
  /** Left out: its tokens are its weight. */
  readonly weight?: number;
}

/** No site has more examples or tokens; a larger number could only be meant to outweigh all others. */
export const MAX_SITE_WEIGHT = 1e12;

/** p_i = w_i / sum w, in the order given. With means of so many tokens each the sum is that of all of them. */
export function sharesOf(received: readonly Weighed[]): readonly number[] {
  const weights = received.map(({ tokens, weight = tokens }) => weight);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** Whether a trainer says what its contribution weighs: the coordinator has not seen the site's data. */
export function isDeclared(weighting: RunConfig['local_steps']['weighting']): boolean {
  return weighting === 'examples' || weighting === 'tokens';
}

/**
 * The `weight` of a contribution that says this one. @param declared undefined: nothing
 * @param trainers whose contributions are summed in it
 */
export function weightOf(
  weighting: RunConfig['local_steps']['weighting'],
  declared?: number,
  trainers: number = 1,
): Pick<Weighed, 'weight'> {
  if (weighting === 'targets') return {};
  const weight = weighting === 'equal' ? trainers : declared;
  return weight === undefined ? {} : { weight };
}

/** Why a contribution may not say this weight, in words, or null. */
export function weightFault(
  weighting: RunConfig['local_steps']['weighting'],
  declared: number | undefined,
): string | null {
  if (!isDeclared(weighting)) {
    return declared === undefined
      ? null
      : `the weight ${declared} is declared, but contributions count by ${weighting}`;
  }
  if (declared === undefined)
    return `no weight is declared, but contributions count by the ${weighting} of a site`;
  const isCount = Number.isInteger(declared) && declared > 0 && declared <= MAX_SITE_WEIGHT;
  return isCount ? null : `the weight ${declared} is declared; ${weighting} are 1 to ${MAX_SITE_WEIGHT}`;
}
