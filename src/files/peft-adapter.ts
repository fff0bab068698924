/**
 * A LoRA adapter as the peft package saves it: adapter_config.json and adapter_model.safetensors, checked against the
 * model it is to be used with. Tensors go by the names that this project's slots have: those of peft without its prefix.
 */
import { join } from 'node:path';
import { DataError } from '../errors.ts';
import { LORA_A, LORA_B, type LoraOptions } from '../galore/parametrisation/lora.ts';
import type { TensorSpec } from '../galore/slot.ts';
import { isFloatDtype } from './float-conversion.ts';
import type { PeftLora } from '../galore/parametrisation/parametrisation.ts';
import { parsePeftConfig, PEFT_PREFIX } from './peft-config.ts';
import { openSafetensors, type SafetensorsFile } from './safetensors.ts';
import { readSmallFile } from './small-file.ts';
import { parseStrictJson } from './strict-json.ts';

export const ADAPTER_CONFIG_FILE = 'adapter_config.json';
export const ADAPTER_WEIGHTS_FILE = 'adapter_model.safetensors';
const MAX_CONFIG_BYTES = 1_048_576;
const LIMITS = { depth: 32, keys: 10_000, values: 100_000 } as const;

/** An adapter that fits the model, until it is closed. */
export interface PeftAdapter extends AsyncDisposable, PeftLora {
  readonly path: string;
  /** Names of the modules it adapts, such as `model.layers.0.self_attn.q_proj`. */
  readonly modules: readonly string[];
  /** Tensors of the model that it has whole. */
  readonly saved: readonly string[];
  /** Whether a tensor by this slot's name is in it. */
  has(spec: TensorSpec): boolean;
  /** One of its tensors, by the slot's name. @throws DataError where a number is not finite */
  read(spec: TensorSpec): Promise<Float32Array>;
}

/**
 * Opens the adapter in `dir` for a model with these tensors.
 * @throws DataError that names what is not supported, or what does not fit the model
 */
export async function openPeftAdapter(dir: string, tensors: readonly TensorSpec[]): Promise<PeftAdapter> {
  const configPath = join(dir, ADAPTER_CONFIG_FILE);
  const bytes = await readSmallFile(configPath, MAX_CONFIG_BYTES);
  const json = parseStrictJson(bytes, LIMITS, (reason) => {
    throw new DataError(configPath, `${configPath} cannot be used: ${reason}`);
  });
  const lora = parsePeftConfig(json, configPath);
  const file = await openSafetensors(join(dir, ADAPTER_WEIGHTS_FILE));
  try {
    return new OpenAdapter(dir, lora, file, tensors);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The parametrisation that the adapter is one of: its modules by their whole names. */
export function loraOptionsOf({ rank, alpha, useRslora, modules, saved }: PeftAdapter): LoraOptions {
  const method = { lora_alpha: alpha, use_rslora: useRslora };
  return { rank, method: { ...method, target_modules: [...modules], modules_to_save: [...saved] } };
}

class OpenAdapter implements PeftAdapter {
  readonly path: string;
  readonly rank: number;
  readonly alpha: number;
  readonly useRslora: boolean;
  readonly modules: readonly string[];
  readonly saved: readonly string[];
  readonly #file: SafetensorsFile;

  constructor(path: string, lora: PeftLora, file: SafetensorsFile, tensors: readonly TensorSpec[]) {
    this.path = path;
    this.rank = lora.rank;
    this.alpha = lora.alpha;
    this.useRslora = lora.useRslora;
    this.#file = file;
    const model = new Map(tensors.map(({ name, shape }) => [name, shape]));
    const modules = new Set<string>();
    const saved: string[] = [];
    for (const full of file.tensors.keys()) {
      const name = full.startsWith(PEFT_PREFIX) ? full.slice(PEFT_PREFIX.length) : '';
      const end = [LORA_A, LORA_B].find((suffix) => name.endsWith(suffix));
      if (end !== undefined) modules.add(name.slice(0, -end.length));
      else if (model.has(name)) saved.push(name);
      else this.#fail(`it holds ${full}, which is no part of a LoRA adapter of this model`);
    }
    if (modules.size === 0) this.#fail('it holds no adapter');
    this.modules = [...modules];
    this.saved = saved;
    for (const module of modules) this.#checkModule(module, model.get(`${module}.weight`));
    for (const name of saved) this.#check(name, model.get(name)!);
  }

  has({ name }: TensorSpec): boolean {
    return this.#file.tensors.has(`${PEFT_PREFIX}${name}`);
  }

  async read({ name }: TensorSpec): Promise<Float32Array> {
    const values = await this.#file.readFloat32(`${PEFT_PREFIX}${name}`);
    const bad = values.findIndex((value) => value - value !== 0);
    if (bad !== -1) this.#fail(`${name} is ${values[bad]} at index ${bad}, not a finite number`);
    return values;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  #checkModule(module: string, shape: readonly number[] | undefined): void {
    if (shape?.length !== 2) {
      this.#fail(
        `it adapts ${module}, and the model has no such linear layer: it was made for another model`,
      );
    }
    const [rows, columns] = shape as readonly [number, number];
    this.#check(`${module}${LORA_A}`, [this.rank, columns]);
    this.#check(`${module}${LORA_B}`, [rows, this.rank]);
  }

  #check(name: string, shape: readonly number[]): void {
    const entry = this.#file.tensors.get(`${PEFT_PREFIX}${name}`);
    if (entry === undefined) return this.#fail(`it has no tensor ${PEFT_PREFIX}${name}`);
    if (entry.shape.join() !== shape.join()) {
      const [is, asked] = [entry.shape, shape].map((sizes) => `[${sizes.join(', ')}]`);
      this.#fail(`${name} is ${is}; for this model and rank ${this.rank} it must be ${asked}`);
    }
    if (!isFloatDtype(entry.dtype)) this.#fail(`${name} is ${entry.dtype}, not F32, F16, BF16 or F64`);
  }

  #fail(reason: string): never {
    throw new DataError(this.path, `the adapter in ${this.path} cannot be used: ${reason}`);
  }
}
