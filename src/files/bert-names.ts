/**
 * Names of an encoder's tensors in files: with the family's prefix as a classifier has them, without as the bare
 * encoder of sentence-transformers; norms with gamma and beta as in the oldest checkpoints. Pure.
 */
import { headNames, type BertConfig, type BertFamily } from '../model/bert-config.ts';

/** What the tensor `name` may be called in a file, the usual name first. */
export function storedNames(name: string, family: BertFamily): readonly string[] {
  const prefix = `${family}.`;
  const bare = name.startsWith(prefix) ? [name, name.slice(prefix.length)] : [name];
  const older = bare.map((each) =>
    each.replace(/LayerNorm\.weight$/, 'LayerNorm.gamma').replace(/LayerNorm\.bias$/, 'LayerNorm.beta'),
  );
  return [...new Set([...bare, ...older])];
}

/** Names of the layer that makes the logits. */
export function outputNames({ modelType, pooling }: BertConfig): readonly string[] {
  const name = pooling === 'mean' ? 'classifier' : headNames(modelType).out;
  return [`${name}.weight`, `${name}.bias`];
}

/** Whether a tensor belongs to the encoder itself, not to a head or what follows from config.json. */
export function isOfEncoder(name: string, family: BertFamily): boolean {
  const bare = name.startsWith(`${family}.`) ? name.slice(family.length + 1) : name;
  return /^(encoder|embeddings)\./.test(bare) && !/^embeddings\.(position_ids|token_type_ids)$/.test(bare);
}
