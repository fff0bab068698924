/** The logger of a command that shows what it does: beside its status line, as `--log-level` and `--log-json` say. */
import { createLogger, type Logger, type LoggerOptions } from '../log.ts';
import type { CliContext } from './context.ts';
import type { Display } from './display.ts';
import type { OutputOptions } from './options.ts';

/** `fields` are on every line. */
export function commandLogger(
  context: CliContext,
  display: Display,
  { logLevel, logJson }: OutputOptions,
  fields: NonNullable<LoggerOptions['fields']>,
): Logger {
  return createLogger({
    level: logLevel,
    format: logJson ? 'json' : 'text',
    mayColour: context.environment.mayColour && context.stderr.isTTY === true,
    write: (line) => display.error(line),
    fields,
  });
}
