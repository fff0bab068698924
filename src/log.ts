/**
 * The logger every shell is given: an event name, fields, and a sentence. pino underneath, with no
 * worker thread. The cores never log: they return reasons, and createChangeLogger writes one down
 * only when it changes.
 */
import { pino } from 'pino';
import { RateLimiter, type Rate } from './rate-limiter.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
/** How much is logged: this level and those after it. */
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Facts of a log line, by name with the unit last. */
export type LogFields = Readonly<Record<string, unknown>>;

/** One call writes one line; `event` names what happened, such as `trainer.joined`. */
export type LogCall = (event: string, fields: LogFields, message: string) => void;

/** Where shells report what happened. Never pass a secret. */
export interface Logger {
  readonly debug: LogCall;
  readonly info: LogCall;
  readonly warn: LogCall;
  readonly error: LogCall;
}

/** How lines look and where they go. */
export interface LoggerOptions {
  readonly level: LogLevel;
  /** json: one JSON object a line; text: for people. */
  readonly format: 'json' | 'text';
  readonly mayColour: boolean;
  /** Receives whole lines with their newline. */
  readonly write: (line: string) => void;
  /** Fields of every line, such as the trainer's id. */
  readonly fields?: LogFields;
}

/** A logger over pino. */
export function createLogger(options: LoggerOptions): Logger {
  const { format, mayColour, write } = options;
  const sink = pino(
    {
      level: options.level,
      base: options.fields ?? {},
      messageKey: 'message',
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    { write: (line: string) => write(format === 'json' ? line : formatLogLine(line, mayColour)) },
  );
  const call =
    (level: LogLevel): LogCall =>
    (event, fields, message) =>
      sink[level]({ event, ...fields }, message);
  return { debug: call('debug'), info: call('info'), warn: call('warn'), error: call('error') };
}

/** A logger whose lines have these fields, too, with the values of the moment; a line's own win. */
export function withFields(logger: Logger, fieldsOf: () => LogFields): Logger {
  const call =
    (level: LogLevel): LogCall =>
    (event, fields, message) =>
      logger[level](event, { ...fieldsOf(), ...fields }, message);
  return { debug: call('debug'), info: call('info'), warn: call('warn'), error: call('error') };
}

/** A logger that writes nothing. */
export const SILENT_LOGGER: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/**
 * A logger for what strangers cause, who may come as often as they like: of each event some lines pass, and the next
 * one that does says how many did not (`dropped`). Lines of level debug pass all: who asks for them wants them.
 * @param now monotonic milliseconds
 */
export function createRateLimitedLogger(logger: Logger, rate: Rate, now: () => number): Logger {
  const limiter = new RateLimiter(rate, now);
  const drops = new Map<string, number>();
  const limited =
    (level: LogLevel): LogCall =>
    (event, fields, message) => {
      const dropped = drops.get(event) ?? 0;
      if (!limiter.take(event)) return void drops.set(event, dropped + 1);
      drops.delete(event);
      logger[level](event, dropped === 0 ? fields : { ...fields, dropped }, message);
    };
  return { debug: logger.debug, info: limited('info'), warn: limited('warn'), error: limited('error') };
}

/** Logs a reason when it differs from the last one; null means there is nothing to say any more. */
export type ChangeLogger = (reason: string | null, fields?: LogFields) => void;

/** A logger for "why nothing happens": the same reason in a row is written once. */
export function createChangeLogger(logger: Logger, event: string, level: LogLevel = 'info'): ChangeLogger {
  let last: string | null = null;
  return (reason, fields = {}) => {
    if (reason === last) return;
    last = reason;
    if (reason !== null) logger[level](event, fields, reason);
  };
}

const LEVEL_COLOURS: Readonly<Record<string, number>> = { debug: 90, info: 36, warn: 33, error: 31 };
/** Not among the fields of a line for people, who know which run they look at. */
const SHOWN_APART = new Set(['level', 'time', 'event', 'message', 'run']);

/** A JSON log line as a line for people: time of day, level, sentence, then the fields. Exported for tests. */
export function formatLogLine(json: string, mayColour: boolean): string {
  const record = JSON.parse(json) as Record<string, unknown>;
  const level = String(record['level']);
  const time = String(record['time']).slice(11, 19); // UTC
  const fields = Object.entries(record)
    .filter(([name, value]) => !SHOWN_APART.has(name) && value !== undefined)
    .map(
      ([name, value]) =>
        `${name}=${typeof value === 'string' ? quoteIfNeeded(value) : JSON.stringify(value)}`,
    );
  const label = level.padEnd(5);
  const parts = [
    `${time}Z`,
    mayColour ? `\u001b[${LEVEL_COLOURS[level] ?? 0}m${label}\u001b[0m` : label,
    printable(String(record['message'] ?? '')),
    ...fields.map(printable),
  ];
  return `${parts.filter((part) => part !== '').join(' ')}\n`;
}

function quoteIfNeeded(text: string): string {
  return /^[^\s"=]+$/.test(text) ? text : JSON.stringify(text);
}

/** Text that may come from elsewhere, made safe for a terminal: control characters become spaces. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what this is about
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+/g, ' ');
}
