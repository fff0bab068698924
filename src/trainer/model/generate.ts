/** Text generation, token by token, with the keys and values of earlier tokens kept. */
import { checkSampleOptions, sampleToken, type SampleOptions } from '../../model/sample.ts';
import { derive, randomUniform } from '../../random.ts';
import { KeyValueCache } from './key-value-cache.ts';
import type { LlamaModel } from './llama.ts';

export interface GenerateOptions extends SampleOptions {
  readonly maxTokens: number;
  /** The same seed, prompt and weights give the same tokens. */
  readonly seed: number;
  /** Generation ends where this token would come; it is not given out. `null`: none. */
  readonly stopId: number | null;
}

/**
 * Gives out the tokens that follow `promptIds`, at most `maxTokens` and no more than the model has
 * positions for. An empty prompt stands for the model's begin-of-text token. Leaving the loop frees
 * the cache.
 * @throws RangeError for options that mean nothing, a prompt that is too long, or an empty one without
 *   a begin-of-text token
 */
export function generate(
  model: LlamaModel,
  promptIds: readonly number[],
  options: GenerateOptions,
): Generator<number, void, undefined> {
  checkSampleOptions(options);
  const { bosTokenId, maxPositionEmbeddings } = model.config;
  const prompt = promptIds.length === 0 && bosTokenId !== null ? [bosTokenId] : promptIds;
  if (prompt.length === 0)
    throw new RangeError('the prompt is empty and the model has no begin-of-text token');
  if (prompt.length > maxPositionEmbeddings) {
    throw new RangeError(
      `the prompt has ${prompt.length} tokens; the model has ${maxPositionEmbeddings} positions`,
    );
  }
  // The last token given out needs no position of its own.
  const count = Math.min(options.maxTokens, maxPositionEmbeddings - prompt.length + 1);
  return tokensAfter(model, prompt, count, options);
}

function* tokensAfter(
  model: LlamaModel,
  prompt: readonly number[],
  count: number,
  options: GenerateOptions,
): Generator<number, void, undefined> {
  const key = derive(options.seed, 'generate');
  using cache = new KeyValueCache(model.config.numHiddenLayers);
  let ids = Int32Array.from(prompt);
  for (let index = 0; index < count; index++) {
    const logits = model.nextLogits(ids, cache);
    const values = logits.dataSync<'float32'>();
    logits.dispose();
    const id = sampleToken(values, options, randomUniform(key, index));
    if (id === options.stopId) return;
    yield id;
    ids = Int32Array.of(id);
  }
}
