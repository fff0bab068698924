/** Whether a run's method is that of the adapter it is to begin with. Pure. */
import type { RunConfig } from '../config/schema.ts';
import { ConfigError, type ConfigFault } from '../errors.ts';
import { moduleList } from '../files/peft-config.ts';
import type { PeftAdapter } from '../files/peft-adapter.ts';
import { loraScaling } from '../galore/parametrisation/lora.ts';
import type { ParameterTable } from '../galore/parametrisation/parametrisation.ts';

type Method = RunConfig['method'];

/** @throws ConfigError that says of every field that differs what the adapter has */
export function checkAdapter(method: Method, table: ParameterTable, adapter: PeftAdapter): void {
  const fault = (field: string, value: unknown, allowed: string): ConfigFault => ({
    field: `method.${field}`,
    value: String(value),
    allowed: `${allowed}, as the adapter in ${adapter.path} has it`,
  });
  const modules = [...table.made.keys()].map(moduleOf);
  const rank = Math.min(...[...table.made.values()].map(({ parts }) => parts[1]!.shape[0]!));
  const faults: ConfigFault[] = [];
  if (rank !== adapter.rank) faults.push(fault('rank', rank, `it must be ${adapter.rank}`));
  else if (loraScaling(method, rank) !== scalingOf(adapter)) {
    const rslora = adapter.useRslora === method.use_rslora ? '' : `, use_rslora ${adapter.useRslora}`;
    faults.push(fault('lora_alpha', method.lora_alpha ?? 2 * rank, `it must be ${adapter.alpha}${rslora}`));
  }
  if (!isSameSet(modules, adapter.modules)) {
    const all = table.tensors.filter(({ shape }) => shape.length === 2).map(({ name }) => moduleOf(name));
    const list = moduleList(adapter.modules, all).join(', ');
    faults.push(fault('target_modules', method.target_modules.join(', '), `it must be [${list}]`));
  }
  const untrained = adapter.saved.filter(
    (name) => !table.parts.some((part) => part.name === name && part.isTrained),
  );
  if (untrained.length > 0) {
    const list = untrained.map(moduleOf).join(', ');
    faults.push(fault('modules_to_save', method.modules_to_save.join(', '), `it must name ${list}`));
  }
  if (faults.length === 0) return;
  const sentences = faults.map(({ field, value, allowed }) => `${field} is ${value}; ${allowed}`);
  throw new ConfigError(sentences.join('\n'), faults);
}

function scalingOf({ rank, alpha, useRslora }: PeftAdapter): number {
  return loraScaling({ lora_alpha: alpha, use_rslora: useRslora }, rank);
}

function moduleOf(tensor: string): string {
  return tensor.replace(/\.(weight|bias)$/, '');
}

function isSameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((name) => b.includes(name));
}
