/** The whole command: its commands, help, and what an error or a wrong word leads to. */
import { Command, CommanderError } from 'commander';
import { readFileSync } from 'node:fs';
import { registerBenchCommand } from './bench.ts';
import { registerChaosCommand } from './chaos.ts';
import type { CliContext } from './context.ts';
import { registerCoordinatorCommand } from './coordinator.ts';
import { registerEvalCommand } from './eval.ts';
import { describeError, EXIT_CODES, exitCodeOf } from './exit-codes.ts';
import { registerExportCommand } from './export.ts';
import { registerGatewayCommand } from './gateway.ts';
import { registerGenerateCommand } from './generate.ts';
import { registerPlanCommand } from './plan.ts';
import { registerPredictCommand } from './predict.ts';
import { registerReplayCommand } from './replay.ts';
import { registerResumeCommand } from './resume.ts';
import { registerTokenCommand } from './token.ts';
import { registerTrainCommand } from './train.ts';
import { registerTrainerCommand } from './trainer.ts';
import { registerViewCommand } from './view.ts';

/** Adds commands that need nothing of the context; they set `process.exitCode` themselves. */
export type RegisterCommand = (program: Command) => void;

/** Runs the command line `args` (without `node` and the script) and resolves to its exit code. */
export async function runCli(
  args: readonly string[],
  context: CliContext,
  more: readonly RegisterCommand[] = [],
): Promise<number> {
  let code: number = EXIT_CODES.OK;
  const program = buildProgram(context, more, (result) => {
    code = result;
  });
  try {
    await program.parseAsync(args, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode === 0 ? EXIT_CODES.OK : EXIT_CODES.BAD_INPUT;
    }
    context.stderr.write(describeError(error, args.includes('--debug')));
    return exitCodeOf(error);
  }
}

function buildProgram(
  context: CliContext,
  more: readonly RegisterCommand[],
  finish: (code: number) => void,
): Command {
  const program = new Command('galore')
    .description('Train one language model on many machines joined by ordinary internet links.')
    .version(`galore ${version()}`, '-V, --version')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void context.stdout.write(text),
      writeErr: (text) => void context.stderr.write(text),
      getOutHelpWidth: () => context.stdout.columns ?? 80,
      getErrHelpWidth: () => context.stderr.columns ?? 80,
    })
    .addHelpText(
      'after',
      `
Examples:
  galore train examples/sotu.yaml --trainers 2     train on this machine
  galore coordinator run.yaml                      serve a run to other machines
  galore trainer ws://192.168.1.20:29400           join it from one of them
  galore resume runs/sotu                          go on after a stop or a crash
  galore generate runs/sotu --prompt "Fellow"      try the model

Exit codes: 0 done; 1 unexpected error; 2 bad usage, configuration or input;
3 the run could not go on; 130 interrupted twice.`,
    );
  registerPlanCommand(program, context, finish);
  registerTrainCommand(program, context, finish);
  registerCoordinatorCommand(program, context, finish);
  registerTrainerCommand(program, context, finish);
  registerGatewayCommand(program, context, finish);
  registerResumeCommand(program, context, finish);
  registerTokenCommand(program, context);
  registerEvalCommand(program, context, finish);
  registerGenerateCommand(program, context, finish);
  registerPredictCommand(program, context, finish);
  registerExportCommand(program, context, finish);
  registerReplayCommand(program, context, finish);
  registerViewCommand(program, context, finish);
  registerChaosCommand(program, context, finish);
  registerBenchCommand(program, context, finish);
  for (const register of more) register(program);
  return program;
}

/** The version of package.json, two folders above the compiled sources. */
function version(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
