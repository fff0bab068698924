/**
 * The method of a run in an inspection: what updates the weights, and what it keeps. Kinds
 * and bytes are those of the newest checkpoint's files, the rest follows from run.yaml and config.json.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseRunConfig } from '../../config/load.ts';
import { ConfigError, DataError } from '../../errors.ts';
import { openSafetensors } from '../../files/safetensors.ts';
import { systemErrorCode } from '../../files/system-error.ts';
import { methodPlan, type BasisSource } from '../../galore/method.ts';
import type { RuleName } from '../../galore/optimizer/rule-state.ts';
import { hasBasis, sizeOf, travels } from '../../galore/slot.ts';
import { parseModelConfig } from '../../model/model-config.ts';
import { buildRunShape } from '../../run-shape.ts';
import { CONFIG_FILE, MAX_DOCUMENT_BYTES, TENSOR_FILES, WEIGHTS_FILE } from './checkpoint-format.ts';

/** State tensors of one kind, such as `m` or `basis`, as they are stored. */
export interface InspectedState {
  readonly kind: string;
  readonly tensors: number;
  readonly bytes: number;
}

/** The method of a run. */
export interface InspectedMethod {
  readonly name: string;
  /** Where bases come from. */
  readonly basis: BasisSource;
  /** The rule of matrices with a basis, and of the rest. */
  readonly rule: RuleName;
  readonly plainRule: RuleName;
  /** The rule of local steps; the two above then take displacements. Null: there are none. */
  readonly innerRule: RuleName | null;
  /** Tensors with a basis, and all tensors that are trained. */
  readonly slotsWithBasis: number;
  /** Tensors that travel as power, by the rule of that name. */
  readonly powerSlots: number;
  readonly slots: number;
  /** Numbers in all the weights. */
  readonly weightNumbers: number;
  /** Everything but the weights; empty before the first step. */
  readonly states: readonly InspectedState[];
}

/**
 * Null where run.yaml, or the checkpoint at `path`, cannot tell: written by another version, or damaged
 * (which an inspection reports as a fault of the checkpoint).
 */
export async function inspectMethod(configYaml: string, path: string): Promise<InspectedMethod | null> {
  try {
    const config = parseRunConfig(configYaml, 'run.yaml', { workingDir: '/', homeDir: '/' });
    const model = parseModelConfig(JSON.parse(await readText(path, CONFIG_FILE)), CONFIG_FILE);
    const { slots } = buildRunShape(config, model);
    const { basis, rule, plainRule, inner } = methodPlan(config);
    return {
      name: config.method.name,
      basis,
      rule,
      plainRule,
      innerRule: inner ?? null,
      slotsWithBasis: slots.filter(hasBasis).length,
      powerSlots: slots.filter(({ policy }) => policy === 'power').length,
      slots: slots.filter(travels).length,
      weightNumbers: slots.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
      states: await statesOf(path),
    };
  } catch (error) {
    const isUnreadable =
      error instanceof ConfigError || error instanceof DataError || error instanceof SyntaxError;
    if (isUnreadable || systemErrorCode(error) !== undefined) return null;
    throw error;
  }
}

async function readText(path: string, name: string): Promise<string> {
  const text = await readFile(join(path, name), 'utf8');
  if (text.length > MAX_DOCUMENT_BYTES) throw new DataError(path, `${name} is too long`);
  return text;
}

async function statesOf(path: string): Promise<readonly InspectedState[]> {
  const states = new Map<string, InspectedState>();
  for (const name of TENSOR_FILES) {
    if (name === WEIGHTS_FILE) continue;
    for (const [tensor, bytes] of await tensorsIn(join(path, name))) {
      const kind = tensor.slice(0, tensor.indexOf('/'));
      const before = states.get(kind) ?? { kind, tensors: 0, bytes: 0 };
      states.set(kind, { kind, tensors: before.tensors + 1, bytes: before.bytes + bytes });
    }
  }
  return [...states.values()];
}

/** Names and bytes of the tensors of a file; none where there is no such file. */
async function tensorsIn(path: string): Promise<readonly (readonly [string, number])[]> {
  const file = await openSafetensors(path).catch((error: unknown) => {
    if (error instanceof DataError && systemErrorCode(error.cause) === 'ENOENT') return null;
    throw error;
  });
  if (file === null) return [];
  try {
    return [...file.tensors].map(([name, { start, end }]) => [name, end - start] as const);
  } finally {
    await file.close();
  }
}
