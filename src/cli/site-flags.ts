/** The options of a trainer with data of its own: where they are, what may be told of them, and what has left. */
import { join, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { printable } from '../log.ts';
import type { AuditRow } from '../trainer/audit.ts';
import { SHARINGS, type Sharing, type SiteOptions } from '../trainer/site.ts';
import type { CliContext } from './context.ts';
import type { Display } from './display.ts';
import { formatBytes } from './format.ts';
import { progressLine } from './progress.ts';

export interface SiteFlags {
  readonly data?: string;
  readonly share: Sharing;
  readonly tokenizer?: string;
  readonly base?: string;
  readonly skipBadLines?: true;
  readonly audit?: true;
}

export function addSiteOptions(command: Command): Command {
  return command
    .option('--data <file>', 'your own data, in runs with data.local: nothing of it leaves this machine')
    .addOption(
      new Option(
        '--share <what>',
        'what the coordinator is told of your data: losses and counts, counts, nothing',
      )
        .choices(SHARINGS)
        .default('losses'),
    )
    .option('--tokenizer <file>', 'your copy of the tokenizer of the run: it ends here if they differ')
    .option(
      '--base <dir>',
      'your copy of the model folder that the run began with: it ends here if they differ',
    )
    .option('--skip-bad-lines', 'leave out lines of your data that cannot be read, and count them')
    .option('--audit', 'print at the end every kind of message that has left, its bytes and what it held');
}

/** What the flags say of the trainer's own data; undefined: it has none. @throws ConfigError */
export function siteOf(context: CliContext, flags: SiteFlags, display: Display): SiteOptions | undefined {
  const { data, tokenizer, base } = flags;
  if (data === undefined) {
    const given = [
      tokenizer && '--tokenizer',
      base && '--base',
      flags.skipBadLines && '--skip-bad-lines',
    ].find(Boolean);
    if (given === undefined && flags.share === 'losses') return undefined;
    throw new ConfigError(`${given ?? '--share'} is about your own data: it goes with --data FILE`);
  }
  return {
    data: resolve(context.workingDir, data),
    cacheDir: join(context.environment.cacheDir, 'site-tokens'),
    skipsBadLines: flags.skipBadLines ?? false,
    shares: flags.share,
    ...(base === undefined ? {} : { base: resolve(context.workingDir, base) }),
    ...(tokenizer === undefined ? {} : { tokenizer: resolve(context.workingDir, tokenizer) }),
    onProgress: (text, share) => display.status(progressLine({ type: 'progress', text, share })),
  };
}

/** What has left, for people. */
export function auditLines(rows: readonly AuditRow[], socketBytes: number): readonly string[] {
  const bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  return [
    'what has left this machine:',
    ...rows.flatMap(({ message, count, bytes: each, holds, last }) => [
      `  ${message}: ${count} ${count === 1 ? 'message' : 'messages'}, ${formatBytes(each)}: ${holds}`,
      `    the last one: ${printable(last)}`,
    ]),
    `  ${formatBytes(bytes)} in messages, ${formatBytes(socketBytes)} on the sockets`,
  ];
}
