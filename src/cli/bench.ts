/** `galore bench`: a group of commands that measure this machine; each is in a file of its own. */
import type { Command } from 'commander';
import { registerBenchAggregateCommand } from './bench-aggregate.ts';
import { registerBenchCodecCommand } from './bench-codec.ts';
import { registerBenchCoordinatorCommand } from './bench-coordinator.ts';
import { registerBenchMemoryCommand } from './bench-memory.ts';
import { registerBenchRefreshCommand } from './bench-refresh.ts';
import { registerBenchStepCommand } from './bench-step.ts';
import { registerBenchWanCommand } from './bench-wan.ts';
import type { CliContext } from './context.ts';

/** Adds the group; `finish` takes the exit code of the command that ran. */
export function registerBenchCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const group = program.command('bench').description('measure what this machine can do');
  registerBenchAggregateCommand(group, context, finish);
  registerBenchCodecCommand(group, context, finish);
  registerBenchCoordinatorCommand(group, context, finish);
  registerBenchMemoryCommand(group, context, finish);
  registerBenchRefreshCommand(group, context, finish);
  registerBenchStepCommand(group, context, finish);
  registerBenchWanCommand(group, context, finish);
}
