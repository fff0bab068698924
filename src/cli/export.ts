/** `galore export`: a model as a folder that Hugging Face transformers loads. */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { resolve } from 'node:path';
import { ConfigError } from '../errors.ts';
import type { StoredDtype } from '../files/float-conversion.ts';
import { readModelConfig } from '../files/model-config.ts';
import type { ExportRequest, ExportResult } from '../files/model-export.ts';
import { methodPlan } from '../galore/method.ts';
import type { ParameterTable } from '../galore/parametrisation/parametrisation.ts';
import { printable } from '../log.ts';
import { buildRunShape } from '../run-shape.ts';
import type { ModelFolder } from '../trainer/open-model.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount } from './format.ts';
import { onInterrupt } from './interrupts.ts';
import { findModelFolder, givenAdapter } from './model-folder.ts';
import { debugOption, wholeNumber } from './options.ts';
import { progressLine } from './progress.ts';
import { shownPath } from './words.ts';

const DTYPES: Readonly<Record<string, StoredDtype>> = { f32: 'F32', bf16: 'BF16', f16: 'F16' };

interface ExportFlags {
  readonly dtype: string;
  readonly step?: number;
  readonly maxShardSize: number;
  readonly merge?: true;
  readonly adapter?: string;
  readonly force?: true;
}

/** Adds the command; `finish` takes its exit code. */
export function registerExportCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('export')
    .argument('<dir>', 'run directory, checkpoint or Hugging Face folder')
    .argument('<out>', 'folder to write')
    .summary('write a model as a Hugging Face folder')
    .description(
      'Writes config.json, safetensors and the tokenizer: a folder that AutoModelForCausalLM and AutoTokenizer\n' +
        'of transformers load. Of a run directory the newest checkpoint is taken. Needs no tensor engine.\n' +
        'Of a LoRA run the adapter is written, as the peft package loads it; with --merge the whole model.',
    )
    .addOption(
      new Option('--dtype <type>', 'type of the weights').choices(Object.keys(DTYPES)).default('f32'),
    )
    .option('--step <n>', 'of a run directory: the checkpoint of this step', wholeNumber(0))
    .addOption(
      new Option('--max-shard-size <size>', 'weights of more than this go into several files')
        .argParser(byteSize)
        .default(5e9, '5GB'),
    )
    .option('--merge', 'of a run with adapters: the model with them merged into its weights')
    .option('--adapter <path>', 'a peft adapter to merge into the model of <dir>')
    .option('--force', 'replace the model that <out> holds')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore export runs/sotu sotu-hf
  galore export runs/sotu-lora sotu-adapter
  galore export runs/sotu-lora sotu-tuned --merge
  galore export runs/sotu sotu-40 --step 40 --dtype bf16 --max-shard-size 2GB`,
    )
    .action(async (dir: string, out: string, flags: ExportFlags) =>
      finish(await exportTo(context, dir, out, flags)),
    );
}

async function exportTo(context: CliContext, dir: string, out: string, flags: ExportFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw);
  const leaving = new AbortController();
  using _ = onInterrupt(context.signals, {
    first: () => leaving.abort(),
    again: () => context.exitNow(EXIT_CODES.INTERRUPTED),
  });
  const shown = (path: string): string => printable(shownPath(context.workingDir, path));
  try {
    const onNotice = (text: string): void => display.error(`${printable(text)}\n`);
    const folder = {
      ...(await findModelFolder(context, dir, onNotice, flags.step)),
      ...givenAdapter(context, flags.adapter),
    };
    const of = folder.step === null ? '' : `, the checkpoint of step ${folder.step}`;
    display.line(`model: ${shown(folder.path)}${of}`);
    const request = {
      from: folder.path,
      out: resolve(context.workingDir, out),
      dtype: DTYPES[flags.dtype]!,
      mayReplace: flags.force === true,
      signal: leaving.signal,
      onProgress: (text: string, share: number) =>
        display.status(progressLine({ type: 'progress', text, share })),
    };
    const { files, parameters, what, hasTokenizer } = await written(context, folder, request, dir, flags);
    display.clear();
    if (!hasTokenizer) onNotice(`${dir} has no tokenizer.json, so ${out} has none`);
    display.line(
      `wrote ${shown(request.out)}: ${what}${formatCount(parameters)} parameters in ${flags.dtype}`,
    );
    for (const { name, bytes } of files) display.line(`  ${printable(name)}  ${formatBytes(bytes)}`);
    return EXIT_CODES.OK;
  } catch (error) {
    if (!leaving.signal.aborted) throw error;
    display.error(`interrupted: ${printable(out)} was not written\n`);
    return EXIT_CODES.INTERRUPTED;
  } finally {
    display.clear();
  }
}

/** Writes the folder: of a run with adapters these alone, unless they are to be merged. */
async function written(
  { services, cores }: CliContext,
  folder: ModelFolder,
  request: Omit<ExportRequest, 'openWeights' | 'maxShardBytes'>,
  dir: string,
  { merge, maxShardSize: maxShardBytes }: ExportFlags,
): Promise<ExportResult & { readonly what: string }> {
  const table = await parametersOf(folder);
  if (table !== null && merge !== true && folder.adapter === undefined) {
    const { model, task } = folder.config!;
    const taskType = task.type === 'causal-lm' ? 'CAUSAL_LM' : 'SEQ_CLS';
    const base = model.path ?? null;
    const result = await services.exportAdapter({ ...request, table, base, taskType });
    return { ...result, hasTokenizer: true, what: 'an adapter of ' };
  }
  if (table === null && folder.adapter === undefined) {
    if (merge === true) {
      throw new ConfigError(`--merge is for runs with adapters, and ${dir} has a whole model already`);
    }
    return { ...(await services.exportModel({ ...request, maxShardBytes })), what: '' };
  }
  const [device] = await services.ensureEngine('cpu');
  const openWeights: ExportRequest['openWeights'] = (_, model) =>
    services.openMadeWeights(folder, model, cores, device);
  return { ...(await services.exportModel({ ...request, maxShardBytes, openWeights })), what: '' };
}

/** How the model's weights are made of the tensors of a run; null: they are the tensors themselves. */
async function parametersOf({ path, config }: ModelFolder): Promise<ParameterTable | null> {
  if (config === null || methodPlan(config).parametrisation === undefined) return null;
  return buildRunShape(config, await readModelConfig(path)).parameters;
}

const UNIT_BYTES: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

/** `5GB`, `500MB`, `2GiB`, or a number of bytes. */
function byteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?) ?([kmgt]i?|)b?$/i.exec(text);
  const bytes = match === null ? NaN : Number(match[1]) * (UNIT_BYTES[match[2]!.toLowerCase()] ?? NaN);
  if (bytes >= 1 && Number.isSafeInteger(Math.floor(bytes))) return Math.floor(bytes);
  throw new InvalidArgumentError('It must be a size such as 5GB, 500MB or 2GiB.');
}
