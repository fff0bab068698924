/** What parts of the program need of a logger. The real one is injected; the cores never log. */

/** Facts of a log line. */
export type LogFields = Readonly<Record<string, unknown>>;

/** `event` names what happened, such as `connection.closed`; `fields` has the facts. */
export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
}

/** Says nothing. */
export const SILENT_LOGGER: Logger = { debug: ignore, info: ignore, warn: ignore, error: ignore };

function ignore(): void {
  return;
}
