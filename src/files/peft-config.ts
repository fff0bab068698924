/**
 * adapter_config.json of the peft package: what of it changes a model's weights, and what of that is supported here.
 * Dropout and the choice of layers are of no account once an adapter is there: its tensors say where it is. Pure.
 */
import { DataError } from '../errors.ts';
import type { PeftLora } from '../galore/parametrisation/parametrisation.ts';

type Fields = Readonly<Record<string, unknown>>;

/** Fields that change what an adapter means, with their values where they change nothing. */
const MUST_BE: Readonly<Record<string, readonly unknown[]>> = {
  use_dora: [false],
  bias: ['none'],
  lora_bias: [false],
  fan_in_fan_out: [false],
  use_qalora: [false],
  layer_replication: [],
  target_parameters: [],
  trainable_token_indices: [],
  alora_invocation_tokens: [],
  use_bdlora: [false],
  arrow_config: [],
  kasa_config: [],
  monteclora_config: [],
  velora_config: [],
  // Others change the base weights, too.
  init_lora_weights: [true, false, 'gaussian', 'eva', 'orthogonal'],
};

/** Fields with a value for each of some modules. */
const PATTERNS = ['rank_pattern', 'alpha_pattern'] as const;

/** @throws DataError that names the field that is missing, malformed or not supported */
export function parsePeftConfig(json: unknown, path: string): PeftLora {
  const fail = (reason: string): never => {
    throw new DataError(path, `${path} cannot be used: ${reason}`);
  };
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return fail('it is no JSON object');
  const fields = json as Fields;
  const show = (name: string): string => `${name} is ${JSON.stringify(fields[name]) ?? 'missing'}`;
  if (fields['peft_type'] !== 'LORA') fail(`${show('peft_type')}; only "LORA" is supported`);
  for (const [name, fine] of Object.entries(MUST_BE)) {
    const value = fields[name] ?? null;
    if (value === null || fine.includes(value)) continue;
    const rule = fine.length === 0 ? 'null' : fine.map((one) => JSON.stringify(one)).join(', ');
    fail(`${show(name)}; only ${rule} is supported`);
  }
  for (const name of PATTERNS) {
    const value = fields[name] ?? {};
    if (typeof value !== 'object' || Object.keys(value).length > 0) {
      fail(`${show(name)}; only one rank and one lora_alpha for all modules are supported`);
    }
  }
  const [rank, alpha] = [fields['r'], fields['lora_alpha']];
  if (!Number.isSafeInteger(rank) || Number(rank) < 1) fail(`${show('r')}; it must be a whole number from 1`);
  if (typeof alpha !== 'number' || !(alpha > 0)) fail(`${show('lora_alpha')}; it must be a number above 0`);
  return { rank: Number(rank), alpha: Number(alpha), useRslora: fields['use_rslora'] === true };
}

/** An adapter to be described. */
export interface PeftDescription extends PeftLora {
  /** The folder or name of the model it belongs to; null: nobody knows. */
  readonly base: string | null;
  readonly targetModules: readonly string[];
  readonly savedModules: readonly string[];
  readonly taskType: 'CAUSAL_LM' | 'SEQ_CLS';
}

/** The fields of adapter_config.json that peft loads such an adapter by. */
export function peftConfigJson(adapter: PeftDescription): Fields {
  return {
    base_model_name_or_path: adapter.base,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: adapter.alpha,
    lora_dropout: 0,
    modules_to_save: adapter.savedModules.length === 0 ? null : [...adapter.savedModules],
    peft_type: 'LORA',
    r: adapter.rank,
    target_modules: [...adapter.targetModules],
    task_type: adapter.taskType,
    use_dora: false,
    use_rslora: adapter.useRslora,
  };
}

/** What peft puts before the names of the model's tensors. */
export const PEFT_PREFIX = 'base_model.model.';

/**
 * The least list that means these modules in peft, where an entry means all modules whose name is it or ends with a dot
 * and it: the last parts of their names, or where these mean others too the whole names.
 * @param all modules of the model
 */
export function moduleList(modules: readonly string[], all: readonly string[]): readonly string[] {
  const wanted = new Set(modules);
  const means = (entry: string): readonly string[] =>
    all.filter((name) => name === entry || name.endsWith(`.${entry}`));
  const entries = modules.map((name) => {
    const last = name.slice(name.lastIndexOf('.') + 1);
    return means(last).every((module) => wanted.has(module)) ? last : name;
  });
  return [...new Set(entries)].sort();
}
