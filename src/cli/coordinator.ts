/** `galore coordinator`: serves a new run to trainers that connect from elsewhere. */
import type { Command } from 'commander';
import { resolvedYaml } from '../config/load.ts';
import { ConfigError } from '../errors.ts';
import type { CliContext } from './context.ts';
import { addOutputOptions, OverrideList, wholeNumber, type OutputOptions } from './options.ts';
import { prepareNewRun } from './run-file.ts';
import { carryOut } from './run.ts';

/** Flags of the commands that carry out a run. */
export interface RunFlags extends OutputOptions {
  readonly stopAt?: number;
  readonly printConfig?: true;
}

/** Adds --stop-at and --print-config. */
export function addRunOptions(command: Command): Command {
  return command
    .option('--stop-at <n>', 'stop after this step, with a checkpoint', wholeNumber(1))
    .option('--print-config', 'print the resolved configuration and do nothing else');
}

/** Adds the command; `finish` takes its exit code. */
export function registerCoordinatorCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides = new OverrideList();
  const command = program
    .command('coordinator')
    .argument('<run.yaml>', 'what to train; docs/configuration.md has every field')
    .summary('serve a run to trainers on other machines')
    .description(
      'Serves a run: hands out the data, sums what the trainers send, keeps journal and checkpoints.\n' +
        'It needs no tensor library. Trainers join with `galore trainer`.',
    );
  overrides.addTo(command);
  overrides
    .addNewRunOptionsTo(command)
    .option(
      '--trainers <k>',
      'trainers to wait for before the first step (coordinator.start_trainers)',
      overrides.flag('--trainers', 'coordinator.start_trainers'),
    );
  overrides.addInsecureTo(command);
  command.option(
    '--standby',
    'with a run in NATS (state): begin it, or wait and take over when its leader is gone; start as many as you like',
  );
  addOutputOptions(addRunOptions(command), 'info').addHelpText(
    'after',
    `
Examples:
  galore coordinator run.yaml
  galore token create run.yaml --role trainer --out token.txt
  galore coordinator run.yaml --trainers 4 --set coordinator.host=10.0.0.7 \\
    --set coordinator.tls='{cert: cert.pem, key: key.pem}'
  galore trainer wss://10.0.0.7:29400 --ca cert.pem --token-file token.txt   on each of the others

  galore coordinator run.yaml --set state=nats://10.0.0.5:4222 --standby       on two machines or more
  galore trainer wss://10.0.0.7:29400,wss://10.0.0.8:29400                     knows both

Ctrl-C writes a checkpoint and ends; a second Ctrl-C ends at once. Where others stand by, one of them goes on.`,
  );
  command.action(async (file: string, flags: RunFlags & { readonly standby?: true }) => {
    const isStandby = flags.standby === true;
    // Trainers come from elsewhere, whatever the file says about this machine.
    const run = prepareNewRun(context, file, overrides.list, () => 0);
    if (isStandby && run.config.state === undefined) {
      throw new ConfigError(
        '--standby needs a run that is kept in NATS: give `state`, such as --set state=nats://10.0.0.5:4222',
      );
    }
    if (flags.printConfig) {
      context.stdout.write(resolvedYaml(run.config));
      return;
    }
    const request = { ...run, mode: 'new', isStandby, stopAtStep: flags.stopAt, output: flags } as const;
    finish(await carryOut(context, request));
  });
}
