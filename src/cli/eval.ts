/** `galore eval`: the held-out loss and perplexity of a model. */
import type { Command } from 'commander';
import { resolve } from 'node:path';
import type { DeviceWish } from '../device-name.ts';
import { ConfigError } from '../errors.ts';
import { printable } from '../log.ts';
import type { EvaluationResult } from '../trainer/evaluate-model.ts';
import type { CliContext } from './context.ts';
import { Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatPerplexity } from './format.ts';
import { findModelFolder, givenAdapter, givenTokenizer } from './model-folder.ts';
import { adapterOption, debugOption, deviceOption, wholeNumber } from './options.ts';
import { progressLine } from './progress.ts';
import { shownPath } from './words.ts';

interface EvalFlags {
  readonly data?: string;
  readonly tokenizer?: string;
  readonly adapter?: string;
  readonly seqLen?: number;
  readonly sequences: number;
  readonly batchSize: number;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly json?: true;
}

const DEFAULT_SEQUENCE_LENGTH = 256;

/** Adds the command; `finish` takes its exit code. */
export function registerEvalCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('eval')
    .argument('<dir>', 'run directory, checkpoint or Hugging Face folder')
    .summary('measure the loss of a model on held-out text')
    .description(
      'Measures loss (nats per token) and perplexity. For a run directory the newest checkpoint is measured,\n' +
        'and without --data on the text that the run held out. A classifier is measured on JSONL of {"text", "label"}:\n' +
        'loss (nats per text) and accuracy.',
    )
    .option('--data <path>', 'text or JSONL file, or a folder of them; all of it is used')
    .option(
      '--tokenizer <path>',
      'with --data: a tokenizer.json, its folder, or byte; default: the one of <dir>',
    )
    .addOption(adapterOption())
    .option('--seq-len <n>', 'tokens of a sequence; default: as in the run, else 256', wholeNumber(2))
    .option('--sequences <n>', 'sequences at most; 0: all', wholeNumber(0), 0)
    .option('--batch-size <n>', 'sequences computed at once', wholeNumber(1), 8)
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, 1024))
    .addOption(deviceOption())
    .option('--json', 'print one JSON object on one line: loss, perplexity or accuracy, …')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore eval runs/sotu
  galore eval runs/sotu/checkpoints/step-000040 --data speeches/ --json
  galore eval llama/ --data text.txt --seq-len 512
  galore eval runs/spam --data mails.jsonl`,
    )
    .action(async (dir: string, flags: EvalFlags) => finish(await evaluate(context, dir, flags)));
}

async function evaluate(context: CliContext, dir: string, flags: EvalFlags): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw && !flags.json);
  const onNotice = (text: string): void => display.error(`${printable(text)}\n`);
  try {
    if (flags.tokenizer !== undefined && flags.data === undefined) {
      throw new ConfigError('--tokenizer needs --data PATH: held-out text has the tokenizer of its run');
    }
    const folder = {
      ...(await findModelFolder(context, dir, onNotice)),
      ...givenTokenizer(context, flags.tokenizer),
      ...givenAdapter(context, flags.adapter),
    };
    if (flags.data === undefined && folder.config === null) {
      throw new ConfigError(`${dir} belongs to no run, so there is no held-out text: give --data PATH`);
    }
    const [device] = await context.services.ensureEngine(flags.device);
    const measured = await context.services.evaluateModel({
      folder,
      dataPath: flags.data === undefined ? null : resolve(context.workingDir, flags.data),
      sequenceLength: flags.seqLen ?? folder.config?.seq_len ?? DEFAULT_SEQUENCE_LENGTH,
      maxSequences: flags.sequences,
      batchSequences: flags.batchSize,
      cacheDir: context.environment.cacheDir,
      threads: flags.threads ?? context.cores,
      device,
      onProgress: (text, share) => display.status(progressLine({ type: 'progress', text, share })),
      onNotice,
    });
    display.clear();
    const model = shownPath(context.workingDir, folder.path);
    const data = flags.data ?? 'held out';
    const facts = shownFacts(measured);
    display.line(
      flags.json
        ? JSON.stringify({ model, step: folder.step, data, ...facts })
        : `${sentenceOf(measured)}  ${model}`,
    );
    return EXIT_CODES.OK;
  } finally {
    display.clear();
  }
}

/** What is printed of a measurement: a classifier has texts and accuracy where others have tokens and perplexity. */
function shownFacts({ loss, perplexity, accuracy, tokens, sequences }: EvaluationResult): object {
  return accuracy === undefined
    ? { loss, perplexity, tokens, sequences }
    : { loss, accuracy, texts: sequences };
}

function sentenceOf({ loss, perplexity, accuracy, tokens, sequences }: EvaluationResult): string {
  return accuracy === undefined
    ? `loss ${loss.toFixed(4)}  perplexity ${formatPerplexity(perplexity)}  tokens ${tokens}  sequences ${sequences}`
    : `loss ${loss.toFixed(4)}  accuracy ${accuracy.toFixed(4)}  texts ${sequences}`;
}
