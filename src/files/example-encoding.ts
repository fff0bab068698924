/**
 * A text as a classifier reads it: the tokenizer's own special tokens around it (BERT: [CLS] text [SEP]), cut to a
 * length. Which they are says the `post_processor` of tokenizer.json; without one there are none.
 */
import { DataError } from '../errors.ts';
import { cutText } from './text.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Encodes texts for a classifier. */
export interface ExampleEncoder {
  /** Fills rows up; a model never looks at it. */
  readonly padId: number;
  /** Special tokens around a text. */
  readonly specialTokens: number;
  /** Ids of a text, 1 to `maxLength`: its end is cut off, the special tokens are not. */
  encode(text: string, maxLength: number): Int32Array;
}

/** The tokens before and after a text. */
interface Frame {
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
}

type Json = Readonly<Record<string, unknown>>;

/** More than nearly all texts have, so that their first piece is enough. */
const CHARACTERS_PER_TOKEN = 16;
const NO_FRAME: Frame = { prefix: [], suffix: [] };
/** Tokens that fill up in published tokenizers. */
const KNOWN_PAD_TOKENS = ['[PAD]', '<pad>'];

/** @throws DataError for a post-processor of an unknown kind */
export function exampleEncoder(tokenizer: Tokenizer): ExampleEncoder {
  const json = JSON.parse(tokenizer.json ?? '{}') as Json;
  const { prefix, suffix } = frameOf(json['post_processor'] as Json | null | undefined);
  const specialTokens = prefix.length + suffix.length;
  const padId = padIdOf(json) ?? tokenizer.eosId ?? 0;
  return {
    padId,
    specialTokens,
    encode(text, maxLength) {
      const inner = encodeStart(tokenizer, text, Math.max(0, maxLength - specialTokens));
      const ids = Int32Array.of(...prefix, ...inner, ...suffix);
      return ids.length > 0 ? ids : Int32Array.of(padId); // a mean over no tokens is no number
    },
  };
}

/** The first ids of a text. What is far behind them is not tokenised: a text may be a book. */
function encodeStart(tokenizer: Tokenizer, text: string, count: number): number[] {
  const ids: number[] = [];
  if (count === 0) return ids;
  for (const piece of cutText(text, CHARACTERS_PER_TOKEN * count)) {
    for (const id of tokenizer.encode(piece)) ids.push(id);
    if (ids.length >= count) break;
  }
  return ids.slice(0, count);
}

function frameOf(processor: Json | null | undefined): Frame {
  const type = processor?.['type'];
  if (processor === null || processor === undefined || type === 'ByteLevel') return NO_FRAME;
  if (type === 'BertProcessing' || type === 'RobertaProcessing') {
    const idOf = (name: string): number => (processor[name] as readonly [token: string, id: number])[1];
    return { prefix: [idOf('cls')], suffix: [idOf('sep')] };
  }
  if (type === 'Sequence') {
    const frames = (processor['processors'] as readonly Json[]).map(frameOf);
    return frames.reduce(
      (inner, outer) => ({
        prefix: [...outer.prefix, ...inner.prefix],
        suffix: [...inner.suffix, ...outer.suffix],
      }),
      NO_FRAME,
    );
  }
  if (type === 'TemplateProcessing') return frameOfTemplate(processor);
  const path = 'tokenizer.json';
  throw new DataError(path, `${path} has the post_processor ${JSON.stringify(type)}, which is not supported`);
}

/** `single` lists special tokens and the text, as {SpecialToken: {id}} and {Sequence: {id}}. */
function frameOfTemplate(processor: Json): Frame {
  const single = processor['single'] as readonly Json[];
  const tokens = processor['special_tokens'] as Readonly<Record<string, { readonly ids: readonly number[] }>>;
  const idsOf = (part: readonly Json[]): number[] =>
    part.flatMap((piece) => tokens[(piece['SpecialToken'] as { readonly id: string }).id]!.ids);
  const at = single.findIndex((piece) => 'Sequence' in piece);
  return { prefix: idsOf(single.slice(0, at)), suffix: idsOf(single.slice(at + 1)) };
}

function padIdOf(json: Json): number | null {
  const padding = json['padding'] as { readonly pad_id?: number } | null | undefined;
  if (typeof padding?.pad_id === 'number') return padding.pad_id;
  const added = (json['added_tokens'] ?? []) as readonly { readonly content: string; readonly id: number }[];
  return added.find(({ content }) => KNOWN_PAD_TOKENS.includes(content))?.id ?? null;
}
