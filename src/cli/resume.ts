/** `galore resume`: goes on with a run that was stopped or cut off. */
import type { Command } from 'commander';
import { resolvedYaml } from '../config/load.ts';
import { override } from '../config/overrides.ts';
import type { CliContext } from './context.ts';
import { addRunOptions, type RunFlags } from './coordinator.ts';
import { addOutputOptions, OverrideList, wholeNumber } from './options.ts';
import { prepareResumedRun } from './run-file.ts';
import { carryOut } from './run.ts';

interface ResumeFlags extends RunFlags {
  readonly trainers?: number;
}

/** Adds the command; `finish` takes its exit code. */
export function registerResumeCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides = new OverrideList();
  const command = program
    .command('resume')
    .argument('<dir>', 'run directory, such as runs/sotu')
    .summary('go on with a run that was stopped or cut off')
    .description(
      'Goes on with the run in a run directory, exactly where it was: checkpoint, then journal.\n' +
        'It starts as many trainers here as the run had here; the others join again by themselves.',
    );
  overrides
    .addTo(command)
    .option('--trainers <k>', 'trainer processes to start here; 0: all come from elsewhere', wholeNumber(0));
  overrides.addDeviceTo(command);
  overrides.addInsecureTo(command);
  addOutputOptions(addRunOptions(command), 'warn').addHelpText(
    'after',
    `
Examples:
  galore resume runs/sotu
  galore resume runs/sotu --steps 500 --trainers 4
  galore resume runs/sotu --set checkpoint.every=20

Only steps, coordinator.*, trainer.*, checkpoint.* and evaluation.* may change: the rest is what the run is.`,
  );
  command.action(async (dir: string, flags: ResumeFlags) => {
    const { trainers } = flags;
    if (trainers)
      overrides.list.push(override('coordinator.start_trainers', trainers, `--trainers ${trainers}`));
    const run = prepareResumedRun(
      context,
      dir,
      overrides.list,
      ({ coordinator }) => trainers ?? coordinator.local_trainers,
    );
    if (flags.printConfig) {
      context.stdout.write(resolvedYaml(run.config));
      return;
    }
    finish(await carryOut(context, { ...run, mode: 'resume', stopAtStep: flags.stopAt, output: flags }));
  });
}
