/**
 * Where a command's words go. On a terminal the last line is a status line, redrawn in place; every
 * other line is written above it. Elsewhere there is no status line. SHELL: owns the two streams.
 */
import type { LogFields, Logger } from '../log.ts';
import type { RunReport } from '../coordinator/api.ts';
import { fitToColumns } from './format.ts';
import { permanentLine, printsStep, progressLine, statusLine, stepLine } from './progress.ts';

/** The part of a writable stream that is used. */
export interface OutputStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

const DEFAULT_COLUMNS = 80;
const CLEAR_LINE = '\r\u001b[2K';

/** Two streams and the status line under them. */
export class Display {
  readonly #out: OutputStream;
  readonly #err: OutputStream;
  readonly hasStatusLine: boolean;
  #status = '';

  /** `mayRedraw` is false on terminals that cannot move the cursor. */
  constructor(out: OutputStream, err: OutputStream, mayRedraw: boolean) {
    this.#out = out;
    this.#err = err;
    this.hasStatusLine = mayRedraw && out.isTTY === true;
  }

  /** A line that stays, on standard output. */
  line(text: string): void {
    this.#above(this.#out, `${text}\n`);
  }

  /** Text that ends with a newline, on standard error: logs, errors, advice. */
  error(text: string): void {
    this.#above(this.#err, text);
  }

  /** Replaces the status line; nothing happens where there is none. */
  status(text: string): void {
    if (!this.hasStatusLine) return;
    // The last column stays free: a full line makes some terminals wrap.
    this.#status = fitToColumns(text, (this.#out.columns || DEFAULT_COLUMNS) - 1);
    this.#out.write(`${CLEAR_LINE}${this.#status}`);
  }

  /** Takes the status line away. */
  clear(): void {
    if (this.#status !== '') this.#out.write(CLEAR_LINE);
    this.#status = '';
  }

  /** Leaves the status line on the screen as an ordinary line. */
  close(): void {
    if (this.#status !== '') this.#out.write('\n');
    this.#status = '';
  }

  #above(stream: OutputStream, text: string): void {
    if (this.#status === '') {
      stream.write(text);
      return;
    }
    this.#out.write(CLEAR_LINE);
    stream.write(text);
    this.#out.write(this.#status);
  }
}

/** Shows reports on a display: a status line and lasting lines, or plain lines. `shownPath` shortens file names. */
export function createReporter(
  display: Display,
  shownPath: (path: string) => string,
): (report: RunReport) => void {
  let lastProgress = '';
  return (report) => {
    const lasting = permanentLine(report, shownPath);
    if (lasting !== null) {
      display.line(lasting);
    } else if (report.type === 'step') {
      if (display.hasStatusLine) display.status(statusLine(report));
      else if (printsStep(report)) display.line(stepLine(report));
    } else if (report.type === 'progress') {
      if (display.hasStatusLine) display.status(progressLine(report));
      else if (report.text !== lastProgress) display.line(report.text);
      lastProgress = report.text;
    }
  };
}

/** Writes reports as log lines for programs: event `run.step`, `run.evaluation`, … */
export function createJsonReporter(logger: Logger): (report: RunReport) => void {
  return (report) => {
    const { type, ...fields } = report;
    logger.info(`run.${type}`, fields as LogFields, permanentLine(report, (path) => path) ?? type);
  };
}
