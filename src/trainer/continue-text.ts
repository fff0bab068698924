/** Continues a text with the model in a folder, handing out the words as they come. SHELL. */
import { setImmediate } from 'node:timers/promises';
import { ConfigError } from '../errors.ts';
import type { Tokenizer } from '../files/tokenizer.ts';
import { TextPieces } from '../files/text-pieces.ts';
import { generate } from './model/generate.ts';
import type { LlamaModel } from './model/llama.ts';
import type { ReadyDevice } from './engine/ready-device.ts';
import { openLanguageModel, type ModelFolder } from './open-model.ts';

/** The beginning, and how to go on. */
export interface ContinuationRequest {
  readonly folder: ModelFolder;
  readonly prompt: string;
  readonly maxTokens: number;
  readonly temperature: number; // 0: always the likeliest token
  readonly topK: number; // 0: all
  readonly topP: number; // 1: all
  readonly seed: number;
  readonly threads: number;
  readonly device?: ReadyDevice | undefined;
  /** Aborted: end after this token. */
  readonly signal: AbortSignal;
  /** Called with each piece of text as soon as its characters are whole. */
  readonly onText: (text: string) => void;
}

/** What came of it. */
export interface ContinuationResult {
  readonly tokens: number;
  readonly end: 'end-of-text' | 'limit' | 'interrupted';
}

/** Continues a text. @throws DataError, ConfigError, EngineError */
export type ContinueText = (request: ContinuationRequest) => Promise<ContinuationResult>;

export const continueText: ContinueText = async (request) => {
  const { prompt, maxTokens, signal, onText } = request;
  using opened = await openLanguageModel(request.folder, request.threads, request.device);
  const { model, tokenizer } = opened;
  const ids = promptIds(tokenizer, model, prompt);
  const pieces = new TextPieces(tokenizer, onText);
  const { temperature, topK, topP, seed } = request;
  const stopId = tokenizer.eosId ?? model.config.eosTokenId;
  let tokens = 0;
  for (const id of generate(model, ids, { maxTokens, temperature, topK, topP, seed, stopId })) {
    tokens += 1;
    pieces.add(id);
    await setImmediate(); // the engine blocks: let signals in and text out
    if (signal.aborted) break;
  }
  pieces.end();
  if (signal.aborted) return { tokens, end: 'interrupted' };
  const room = Math.min(maxTokens, model.config.maxPositionEmbeddings - ids.length + 1);
  return { tokens, end: tokens < room ? 'end-of-text' : 'limit' };
};

/** A model that knows a beginning of text gets it first; an empty prompt needs one, or the end of the text before. */
function promptIds(tokenizer: Tokenizer, model: LlamaModel, prompt: string): readonly number[] {
  const { bosTokenId, maxPositionEmbeddings, vocabSize } = model.config;
  if (bosTokenId !== null && bosTokenId >= vocabSize) {
    throw new ConfigError(
      `the model's bos_token_id is ${bosTokenId}; its vocabulary has ${vocabSize} tokens`,
    );
  }
  const begin = bosTokenId ?? (prompt === '' ? tokenizer.eosId : null);
  const ids = [...(begin === null ? [] : [begin]), ...tokenizer.encode(prompt)];
  if (ids.length === 0)
    throw new ConfigError('the prompt is empty, and this model knows no beginning of a text');
  if (ids.length > maxPositionEmbeddings) {
    throw new ConfigError(
      `the prompt has ${ids.length} tokens; this model has ${maxPositionEmbeddings} positions`,
    );
  }
  return ids;
}
