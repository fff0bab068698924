/** `galore train`: a new run on this machine, coordinator and trainers together. */
import type { Command } from 'commander';
import { resolvedYaml } from '../config/load.ts';
import type { CliContext } from './context.ts';
import { addRunOptions, type RunFlags } from './coordinator.ts';
import { addOutputOptions, OverrideList } from './options.ts';
import { prepareNewRun } from './run-file.ts';
import { carryOut } from './run.ts';

/** Adds the command; `finish` takes its exit code. */
export function registerTrainCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides = new OverrideList();
  const command = program
    .command('train')
    .argument('<run.yaml>', 'what to train; docs/configuration.md has every field')
    .summary('train on this machine: a coordinator and its trainers')
    .description(
      'Trains on this machine: a coordinator in this process and K trainer processes that share the cores.\n' +
        'A trainer that crashes is started again up to 3 times. More may join with `galore trainer`.',
    );
  overrides.addTo(command);
  overrides
    .addNewRunOptionsTo(command)
    .option(
      '--trainers <k>',
      'trainer processes to start, and to wait for (coordinator.start_trainers)',
      overrides.flag('--trainers', 'coordinator.start_trainers'),
    );
  overrides.addDeviceTo(command);
  overrides.addInsecureTo(command);
  addOutputOptions(addRunOptions(command), 'warn').addHelpText(
    'after',
    `
Examples:
  galore train examples/sotu.yaml --trainers 2
  galore train run.yaml --steps 200 --seed 1 --dir runs/second --set optimizer.lr=0.005
  galore train run.yaml --print-config

Ctrl-C writes a checkpoint and ends; \`galore resume\` goes on. A second Ctrl-C ends at once.`,
  );
  command.action(async (file: string, flags: RunFlags) => {
    const run = prepareNewRun(context, file, overrides.list, ({ coordinator }) =>
      overrides.has('--trainers') || coordinator.local_trainers === 0
        ? coordinator.start_trainers
        : coordinator.local_trainers,
    );
    if (flags.printConfig) {
      context.stdout.write(resolvedYaml(run.config));
      return;
    }
    finish(await carryOut(context, { ...run, mode: 'new', stopAtStep: flags.stopAt, output: flags }));
  });
}
