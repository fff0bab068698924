/** `galore predict`: the class of each text, as a trained classifier tells it. */
import type { Command } from 'commander';
import { resolve } from 'node:path';
import type { DeviceWish } from '../device-name.ts';
import { ConfigError } from '../errors.ts';
import { readSmallFile } from '../files/small-file.ts';
import { printable } from '../log.ts';
import type { Prediction } from '../trainer/predict-classes.ts';
import type { CliContext } from './context.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { findModelFolder, givenAdapter, givenTokenizer } from './model-folder.ts';
import { adapterOption, debugOption, deviceOption, wholeNumber } from './options.ts';

interface PredictFlags {
  readonly file?: string;
  readonly tokenizer?: string;
  readonly adapter?: string;
  readonly seqLen?: number;
  readonly batchSize: number;
  readonly threads?: number;
  readonly device: DeviceWish;
  readonly json?: true;
}

/** Texts of a file are held in memory. */
const MAX_FILE_BYTES = 256 * 1024 * 1024;
/** Characters of a text that are printed. */
const SHOWN_CHARACTERS = 60;
/** Where there is no run to say it. */
const DEFAULT_SEQUENCE_LENGTH = 512;

/** Adds the command; `finish` takes its exit code. */
export function registerPredictCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  program
    .command('predict')
    .argument('<dir>', 'run directory, checkpoint or Hugging Face folder of a classifier')
    .argument('[text...]', 'texts to classify')
    .summary('tell the classes of texts with a model')
    .description(
      'Prints the label of each text and the probability of every class. Texts are read up to --seq-len tokens.',
    )
    .option('--file <path>', 'a text file: every line that is not empty is a text')
    .option('--tokenizer <path>', 'a tokenizer.json, its folder, or byte; default: the one of <dir>')
    .addOption(adapterOption())
    .option(
      '--seq-len <n>',
      'tokens of a text at most; default: as in the run, else as many as the model has positions for',
      wholeNumber(2),
    )
    .option('--batch-size <n>', 'texts computed at once', wholeNumber(1), 8)
    .option('--threads <n>', 'CPU threads; default: all cores', wholeNumber(1, 1024))
    .addOption(deviceOption())
    .option('--json', 'print one JSON object on one line for each text: text, label, probabilities')
    .addOption(debugOption())
    .addHelpText(
      'after',
      `
Examples:
  galore predict runs/spam "You have won" "See you at noon"
  galore predict exported/ --file mails.txt --json`,
    )
    .action(async (dir: string, texts: string[], flags: PredictFlags) =>
      finish(await predict(context, dir, texts, flags)),
    );
}

async function predict(
  context: CliContext,
  dir: string,
  given: readonly string[],
  flags: PredictFlags,
): Promise<number> {
  const { stdout, stderr, services, workingDir } = context;
  const onNotice = (text: string): void => void stderr.write(`${printable(text)}\n`);
  const texts = [
    ...given,
    ...(flags.file === undefined ? [] : await linesOf(resolve(workingDir, flags.file))),
  ];
  if (texts.length === 0) {
    const where = flags.file === undefined ? 'name one, or a file with --file' : `${flags.file} holds none`;
    throw new ConfigError(`there is no text to classify: ${where}`);
  }
  const folder = {
    ...(await findModelFolder(context, dir, onNotice)),
    ...givenTokenizer(context, flags.tokenizer),
    ...givenAdapter(context, flags.adapter),
  };
  const [device] = await services.ensureEngine(flags.device);
  await services.predictClasses({
    folder,
    texts,
    sequenceLength: flags.seqLen ?? folder.config?.seq_len ?? DEFAULT_SEQUENCE_LENGTH,
    batchSequences: flags.batchSize,
    threads: flags.threads ?? context.cores,
    device,
    onPrediction: (prediction) =>
      void stdout.write(`${flags.json ? JSON.stringify(prediction) : lineOf(prediction)}\n`),
  });
  return EXIT_CODES.OK;
}

async function linesOf(path: string): Promise<string[]> {
  const text = new TextDecoder().decode(await readSmallFile(path, MAX_FILE_BYTES));
  return text.split(/\r?\n/).filter((line) => line.trim() !== '');
}

/** `spam  ham 0.0312  spam 0.9688  You have won`. */
function lineOf({ text, label, probabilities }: Prediction): string {
  const shares = Object.entries(probabilities).map(([name, share]) => `${name} ${share.toFixed(4)}`);
  const line = printable(text.replace(/\s+/g, ' '));
  const shown = line.length > SHOWN_CHARACTERS ? `${line.slice(0, SHOWN_CHARACTERS)}…` : line;
  return [label, ...shares, shown].map(printable).join('  ');
}
