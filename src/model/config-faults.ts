/** How a config.json that cannot be used is reported: every fault in it, each with field, value and what is allowed. Pure. */
import { ConfigError, DataError, type ConfigFault } from '../errors.ts';

/** Greatest sizes; several times those of the largest models, small enough to count and list tensors with. */
export const GREATEST_SIZES = {
  vocab_size: 2 ** 24,
  hidden_size: 2 ** 18,
  intermediate_size: 2 ** 20,
  num_hidden_layers: 4096,
  num_attention_heads: 4096,
  num_key_value_heads: 4096,
  head_dim: 2 ** 14,
  max_position_embeddings: 2 ** 24,
  type_vocab_size: 2 ** 16,
} as const;

/** `model_type` of a config.json, or in words why it has none. */
export function modelTypeOf(json: unknown): string {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return 'missing (not a JSON object)';
  if (!('model_type' in json)) return 'missing';
  return typeof json.model_type === 'string' ? json.model_type : shownValue(json.model_type);
}

/** What to throw where `model_type` is none of `families`. */
export function unknownFamily(path: string, modelType: string, families: readonly string[]): DataError {
  const shown = modelType.startsWith('missing') ? modelType : JSON.stringify(modelType.slice(0, 100));
  const allowed = families.map((family) => `"${family}"`).join(' or ');
  return new DataError(path, `${path}: model_type is ${shown}; allowed: ${allowed}`);
}

/** The field of that name, if `value` has fields. */
export function fieldOf(value: unknown, key: PropertyKey): unknown {
  return typeof value === 'object' && value !== null
    ? (value as Record<PropertyKey, unknown>)[key]
    : undefined;
}

/** A value as JSON, cut to a length that fits into a message. */
export function shownValue(value: unknown): string {
  const text = value === undefined ? 'missing' : JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}

/** What was wrong with fields of `json`, from what the schema says of them. */
export function schemaFaults(
  json: unknown,
  issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[],
): ConfigFault[] {
  return issues.map(({ path, message }) => ({
    field: path.join('.'),
    value: shownValue(path.reduce<unknown>(fieldOf, json)),
    allowed: message,
  }));
}

/** Fields that are greater than any model's. */
export function sizeFaults(
  sizes: Readonly<Partial<Record<keyof typeof GREATEST_SIZES, number>>>,
): ConfigFault[] {
  return Object.entries(sizes).flatMap(([field, value]) => {
    const greatest = GREATEST_SIZES[field as keyof typeof GREATEST_SIZES];
    return value <= greatest ? [] : [{ field, value: String(value), allowed: `at most ${greatest}` }];
  });
}

/** @param what the model, such as `Llama` */
export function unusable(path: string, what: string, faults: readonly ConfigFault[]): DataError {
  return new DataError(path, `${path}: not a ${what} that can be used:\n${listFaults(faults)}`);
}

/** The same for a model that a run describes. */
export function configError(faults: readonly ConfigFault[]): ConfigError {
  return new ConfigError(`the model cannot be built:\n${listFaults(faults)}`, faults);
}

function listFaults(faults: readonly ConfigFault[]): string {
  return faults.map(({ field, value, allowed }) => `  ${field}: is ${value}; allowed: ${allowed}`).join('\n');
}
