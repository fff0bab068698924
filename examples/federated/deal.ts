/**
 * Deals groups of things to sites so that sizes and mixtures differ wildly: for each group the shares of the
 * sites are drawn from a Dirichlet distribution (Hsu, Qi and Brown 2019, arXiv:1909.06335). Pure.
 */
import { derive, randomNormal, randomUniform, type RandomKey } from '../../src/random.ts';

/** Tries before it is plain that the rule cannot be kept. */
const MAX_DRAWS = 1000;

export interface Deal {
  /** How many of each group each site gets: [group][site]. */
  readonly counts: readonly (readonly number[])[];
  /** Draws until every site had enough. */
  readonly draws: number;
}

/**
 * Of each group of `counts[g]` things, how many each of `sites` gets. A small `alpha` makes shares differ more. All is
 * drawn again until every site has at least `minimum` things.
 * @throws RangeError if that does not come about
 */
export function dealBySite(
  counts: readonly number[],
  sites: number,
  alpha: number,
  seed: number,
  minimum = 1,
): Deal {
  for (let draw = 0; draw < MAX_DRAWS; draw++) {
    const dealt = counts.map((count, group) =>
      split(count, dirichlet(derive(seed, 'deal', draw, group), sites, alpha)),
    );
    const sizes = Array.from({ length: sites }, (_, site) =>
      dealt.reduce((sum, bySite) => sum + bySite[site]!, 0),
    );
    if (Math.min(...sizes) >= minimum) return { counts: dealt, draws: draw + 1 };
  }
  throw new RangeError(`no draw of ${MAX_DRAWS} gave each of ${sites} sites at least ${minimum}`);
}

/** Cuts `count` at the cumulated shares, so that the parts add up to it. */
function split(count: number, shares: readonly number[]): number[] {
  let cumulated = 0;
  let start = 0;
  return shares.map((share, i) => {
    cumulated += share;
    const end = i === shares.length - 1 ? count : Math.min(count, Math.round(cumulated * count));
    const part = end - start;
    start = end;
    return part;
  });
}

/** Shares of `size` that add up to 1: independent Gamma(alpha, 1) numbers over their sum. */
export function dirichlet(key: RandomKey, size: number, alpha: number): number[] {
  const drawn = Array.from({ length: size }, (_, i) => gamma(derive(key.low, 'gamma', key.high, i), alpha));
  const sum = drawn.reduce((total, each) => total + each, 0);
  // With a tiny alpha all may round to zero: then one of them is everything.
  return sum > 0 ? drawn.map((each) => each / sum) : drawn.map((_, i) => (i === 0 ? 1 : 0));
}

/**
 * A Gamma(alpha, 1) number (Marsaglia and Tsang 2000); below alpha = 1 it is one of alpha + 1 times U^(1/alpha).
 */
export function gamma(key: RandomKey, alpha: number): number {
  const boost = alpha < 1 ? (1 - randomUniform(key, 0)) ** (1 / alpha) : 1;
  const d = (alpha < 1 ? alpha + 1 : alpha) - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (let trial = 0; ; trial++) {
    const x = randomNormal(derive(key.low, 'normal', key.high), trial);
    const v = (1 + c * x) ** 3;
    if (v <= 0) continue;
    const u = 1 - randomUniform(key, trial + 1);
    if (Math.log(u) < 0.5 * x * x + d - d * v + d * Math.log(v)) return boost * d * v;
  }
}
