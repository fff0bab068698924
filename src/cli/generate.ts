/** `galore generate`: continues a text with a trained model, printing it as it comes. */
import type { Command } from 'commander';
import type { DeviceWish } from '../device-name.ts';
import { printable } from '../log.ts';
import type { CliContext } from './context.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { onInterrupt } from './interrupts.ts';
import { findModelFolder, givenAdapter, givenTokenizer } from './model-folder.ts';
import { adapterOption, debugOption, deviceOption, numberWhere, wholeNumber } from './options.ts';

interface GenerateFlags {
  readonly prompt: string;
  readonly tokenizer?: string;
  readonly adapter?: string;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly seed: number;
  readonly threads?: number;
  readonly device: DeviceWish;
}

/** Adds the command; `finish` takes its exit code. */
export function registerGenerateCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('generate')
    .argument('<dir>', 'run directory, checkpoint or Hugging Face folder')
    .summary('continue a text with a model')
    .description(
      'Prints the prompt and what the model makes of it, as it comes. The same seed gives the same text.',
    )
    .requiredOption('--prompt <text>', 'the beginning')
    .option('--tokenizer <path>', 'a tokenizer.json, its folder, or byte; default: the one of <dir>')
    .addOption(adapterOption())
    .option('--max-tokens <n>', 'tokens to add at most', wholeNumber(1), 100)
    .option(
      '--temperature <t>',
      '0: always the likeliest token; 1: as the model believes',
      numberWhere((value) => value >= 0 && value <= 100, 'a number from 0 to 100'),
      0.8,
    )
    .option('--top-k <k>', 'choose among the k likeliest tokens; 0: all', wholeNumber(0), 0)
    .option(
      '--top-p <p>',
      'choose among the likeliest tokens that together reach probability p',
      numberWhere((value) => value > 0 && value <= 1, 'a number above 0 and at most 1'),
      1,
    )
    .option('--seed <n>', 'seed of the choices', wholeNumber(0), 0)
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, 1024))
    .addOption(deviceOption())
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore generate runs/sotu --prompt "Fellow citizens"
  galore generate runs/sotu --prompt "The state of" --max-tokens 40 --temperature 0`,
    )
    .action(async (dir: string, flags: GenerateFlags) => finish(await generate(context, dir, flags)));
}

async function generate(context: CliContext, dir: string, flags: GenerateFlags): Promise<number> {
  const { stdout, stderr, services } = context;
  const onNotice = (text: string): void => void stderr.write(`${printable(text)}\n`);
  const folder = {
    ...(await findModelFolder(context, dir, onNotice)),
    ...givenTokenizer(context, flags.tokenizer),
    ...givenAdapter(context, flags.adapter),
  };
  const [device] = await services.ensureEngine(flags.device);
  const leaving = new AbortController();
  using _ = onInterrupt(context.signals, {
    first: () => leaving.abort(),
    again: () => context.exitNow(EXIT_CODES.INTERRUPTED),
  });
  let hasBegun = false;
  const { prompt, maxTokens, temperature, topK, topP, seed } = flags;
  await services.continueText({
    folder,
    ...{ prompt, maxTokens, temperature, topK, topP, seed },
    threads: flags.threads ?? context.cores,
    device,
    signal: leaving.signal,
    onText: (text) => {
      // Nothing is printed before the model has loaded: an error then stands alone.
      stdout.write(hasBegun ? text : prompt + text);
      hasBegun = true;
    },
  });
  stdout.write(hasBegun ? '\n' : `${prompt}\n`);
  return EXIT_CODES.OK;
}
