/** Exit codes of every command (docs/cli.md has the table), and which error gives which. */
import {
  CheckpointError,
  ConfigError,
  DataError,
  EngineError,
  GaloreError,
  NotFiniteError,
  OperatingError,
  ProtocolError,
  TrainerError,
} from '../errors.ts';

export const EXIT_CODES = {
  /** What was asked for was done; also a run stopped in good order. */
  OK: 0,
  /** An error nobody expected: a fault of this program. */
  UNEXPECTED: 1,
  /** The command line, the configuration or a given file cannot be used. */
  BAD_INPUT: 2,
  /** The run could not go on: refused for good, damaged state, no engine, no trainers, disk full, numbers that overflow. */
  CANNOT_CONTINUE: 3,
  /** Interrupted twice: ended at once. */
  INTERRUPTED: 130,
} as const;

/** The exit code of a command that ended with `error`. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof ConfigError || error instanceof DataError) return EXIT_CODES.BAD_INPUT;
  if (
    error instanceof CheckpointError ||
    error instanceof ProtocolError ||
    error instanceof EngineError ||
    error instanceof NotFiniteError ||
    error instanceof OperatingError ||
    error instanceof TrainerError
  ) {
    return EXIT_CODES.CANNOT_CONTINUE;
  }
  return EXIT_CODES.UNEXPECTED;
}

/** What is printed for `error`: one message, and with `isDebug` the stack and its causes. */
export function describeError(error: unknown, isDebug: boolean): string {
  const message = error instanceof Error ? error.message : String(error);
  if (isDebug && error instanceof Error) return `error: ${stackOf(error)}\n`;
  if (error instanceof GaloreError && exitCodeOf(error) !== EXIT_CODES.UNEXPECTED)
    return `error: ${message}\n`;
  return `error: unexpected: ${message}\nThis is a fault of galore; --debug shows where it happened.\n`;
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by: ${stackOf(error.cause)}` : '';
  const code = error instanceof GaloreError ? ` (${error.code})` : '';
  return `${error.stack ?? error.message}${code}${cause}`;
}
