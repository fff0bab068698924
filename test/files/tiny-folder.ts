/** Model folders of a Llama with one layer, sound but for what a test changes. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { sizeOf } from '../../src/galore/slot.ts';
import { llamaTensors, parseLlamaConfig } from '../../src/model/llama-config.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { f32, safetensorsOf } from './safetensors-samples.ts';

/** A tensor of a file. */
export interface FileTensor {
  name: string;
  dtype: string;
  shape: readonly number[];
  data: Uint8Array;
}

/** config.json of the model. */
export const TINY_JSON = {
  model_type: 'llama',
  vocab_size: 5,
  hidden_size: 4,
  intermediate_size: 6,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  bos_token_id: 0,
  eos_token_id: 1,
} as const;

/** The tensors that a config.json asks for: 0.25, 0.5, … in each. */
export function tinyTensors(json: object = TINY_JSON): FileTensor[] {
  return llamaTensors(parseLlamaConfig(json, 'c')).map(({ name, shape }) => {
    const values = Array.from({ length: sizeOf(shape) }, (_, i) => (i + 1) / 4);
    return { name, dtype: 'F32', shape, data: f32(...values) };
  });
}

/** A folder with config.json and model.safetensors, in a temporary folder of its own. */
export function tinyFolder(
  t: ExecutionContext,
  json: object = TINY_JSON,
  tensors: readonly FileTensor[] = tinyTensors(json),
): string {
  const dir = join(temporaryDir(t), 'model');
  mkdirSync(dir);
  writeFileSync(join(dir, 'config.json'), JSON.stringify(json));
  writeFileSync(join(dir, 'model.safetensors'), safetensorsOf(tensors, { format: 'pt' }));
  return dir;
}
