/** Choosing the next token from logits. Pure: the randomness is an argument. */

export interface SampleOptions {
  /** 0: the most likely token; 1: the model's own distribution. */
  readonly temperature: number;
  /** Only the k most likely tokens are considered; 0: all. */
  readonly topK: number;
  /** Of those, only the fewest whose probabilities reach this sum; 1: all. */
  readonly topP: number;
}

interface Candidate {
  readonly id: number;
  readonly weight: number;
}

/** @throws RangeError for a temperature, k or p that means nothing */
export function checkSampleOptions({ temperature, topK, topP }: SampleOptions): void {
  if (!(temperature >= 0 && temperature < Infinity)) {
    throw new RangeError(`temperature is ${temperature}; it must be 0 or more`);
  }
  if (!Number.isInteger(topK) || topK < 0) throw new RangeError(`topK is ${topK}; it must be 0, 1, 2, …`);
  if (!(topP > 0 && topP <= 1)) throw new RangeError(`topP is ${topP}; it must be above 0 and at most 1`);
}

/**
 * The token that `uniform`, a number in [0, 1), picks. Temperature, then top-k, then top-p, as in Hugging
 * Face; equal logits count in the order of their ids.
 * @throws RangeError if a logit is not a finite number
 */
export function sampleToken(logits: Float32Array, options: SampleOptions, uniform: number): number {
  if (!logits.every(Number.isFinite)) throw new RangeError('the model gave logits that are not finite');
  const greatest = logits.reduce((max, logit) => Math.max(max, logit), -Infinity);
  if (options.temperature === 0) return logits.indexOf(greatest);

  let candidates: Candidate[] = Array.from(logits, (logit, id) => ({
    id,
    weight: Math.exp((logit - greatest) / options.temperature),
  }));
  if (options.topK > 0 || options.topP < 1) candidates.sort((a, b) => b.weight - a.weight);
  if (options.topK > 0) candidates = candidates.slice(0, options.topK);
  if (options.topP < 1) candidates = candidates.slice(0, 1 + whereSumReaches(candidates, options.topP));
  return candidates[whereSumReaches(candidates, uniform, 'strictly')]?.id ?? 0;
}

/** Index of the first candidate at which the weights up to it sum to `share` of the total. */
function whereSumReaches(candidates: readonly Candidate[], share: number, how?: 'strictly'): number {
  const target = share * candidates.reduce((sum, { weight }) => sum + weight, 0);
  let sum = 0;
  const index = candidates.findIndex(({ weight }) => {
    sum += weight;
    return how === 'strictly' ? sum > target : sum >= target;
  });
  return index < 0 ? candidates.length - 1 : index;
}
