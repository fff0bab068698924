/**
 * Writes what a run with adapters has trained as the folder of a LoRA adapter that the peft package loads:
 * adapter_config.json and adapter_model.safetensors. SHELL.
 */
import { join } from 'node:path';
import { ConfigError } from '../errors.ts';
import type { ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import { sizeOf } from '../galore/slot.ts';
import { writeSynced } from './atomic.ts';
import { readModelConfig } from './model-config.ts';
import { writeTensors, type ExportRequest, type ExportResult } from './model-export.ts';
import { openTensors } from './model-weights.ts';
import { ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE } from './peft-adapter.ts';
import { moduleList, PEFT_PREFIX, peftConfigJson, type PeftDescription } from './peft-config.ts';
import { explaining } from './system-error.ts';
import { writeFolder } from './written-folder.ts';

/** What is to be written, and where. */
export interface AdapterExportRequest extends Pick<
  ExportRequest,
  'from' | 'out' | 'dtype' | 'mayReplace' | 'signal' | 'onProgress'
> {
  /** How the weights of the model are made of the tensors that the folder `from` has. */
  readonly table: ParameterTable;
  /** The model that the adapter belongs to, as peft is to find it; null: it is not said. */
  readonly base: string | null;
  readonly taskType: PeftDescription['taskType'];
}

/** Writes the folder. @throws as `ExportModel`; ConfigError for what peft has no adapter for */
export type ExportAdapter = (request: AdapterExportRequest) => Promise<Omit<ExportResult, 'hasTokenizer'>>;

export const exportAdapter: ExportAdapter = async (request) => {
  const { from, out, mayReplace, table, signal } = request;
  const trained = table.parts.filter(({ isTrained }) => isTrained);
  const description = describe(request);
  await using weights = await openTensors(from, table.parts, await readModelConfig(from));
  const place = { out, mayReplace, what: 'adapter', isOwnFile };
  const files = await writeFolder(place, async (folder) => {
    const [weightsPath, configPath] = [ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE].map((name) =>
      join(folder, name),
    ) as [string, string];
    request.onProgress(`writing ${ADAPTER_WEIGHTS_FILE}`, 0);
    await writeTensors(weightsPath, trained, weights, request, undefined, (name) => PEFT_PREFIX + name);
    const text = `${JSON.stringify(peftConfigJson(description), null, 2)}\n`;
    await explaining(`write ${configPath}`, writeSynced(configPath, text));
    signal.throwIfAborted();
  });
  return { files, parameters: trained.reduce((total, { shape }) => total + sizeOf(shape), 0) };
};

function isOwnFile(name: string): boolean {
  return name === ADAPTER_CONFIG_FILE || name === ADAPTER_WEIGHTS_FILE;
}

function describe({ table, base, taskType }: AdapterExportRequest): PeftDescription {
  const { peft } = table.parametrisation;
  if (peft === undefined) {
    throw new ConfigError(
      'what this run has trained is no adapter of the model it began with: export it with --merge, as a whole model',
    );
  }
  const own = new Set(table.tensors.map(({ name }) => name));
  const saved = new Set(
    table.parts.filter(({ name, isTrained }) => isTrained && own.has(name)).map(moduleOf),
  );
  const half = table.parts.find((part) => !part.isTrained && saved.has(moduleOf(part)));
  if (half !== undefined) {
    throw new ConfigError(
      `peft trains modules whole, and of ${moduleOf(half)} ${half.name} was not trained: export it with --merge`,
    );
  }
  const all = [...new Set(table.tensors.map(moduleOf))];
  const targets = [...table.made.values()].map(({ tensor }) => moduleOf(tensor));
  const savedModules = moduleList([...saved], all);
  return { ...peft, base, taskType, targetModules: moduleList(targets, all), savedModules };
}

/** `score` for `score.weight`. */
function moduleOf({ name }: { readonly name: string }): string {
  return name.replace(/\.(weight|bias)$/, '');
}
