/** One process of a run under `galore chaos`, started again when it ends, as a supervisor would. SHELL. */
import type { ChildProcessHandle, LaunchProcess } from '../local-trainers.ts';

/** Before it is started again after an end that nobody asked for. */
const RESTART_DELAY_MS = 500;
/** Lines that are shown when it ends in an unexpected way. */
const KEPT_LINES = 8;

export interface MemberOptions {
  readonly name: string;
  readonly launch: LaunchProcess;
  /** Of the next start. */
  readonly args: () => readonly string[];
  readonly onLine: (line: string) => void;
  /** It is not there any more, for whatever reason. */
  readonly onDown: () => void;
  /** It ended and is not started again. */
  readonly onDone: () => void;
}

/** An end that no fault brought about. */
export interface UnexpectedEnd {
  readonly name: string;
  readonly how: string;
  /** The last it printed. */
  readonly lines: readonly string[];
}

export class Member {
  readonly #options: MemberOptions;
  readonly unexpectedEnds: UnexpectedEnd[] = [];
  #process: ChildProcessHandle | null = null;
  #wasKilled = false;
  /** It is to be started as soon as it is gone. */
  #isAwaited = false;
  #isEnding = false;
  #lines: string[] = [];
  #timer: NodeJS.Timeout | null = null;
  #onEnded: (() => void) | null = null;

  constructor(options: MemberOptions) {
    this.#options = options;
  }

  get isUp(): boolean {
    return this.#process !== null;
  }

  start(): void {
    const { launch, args, onLine } = this.#options;
    this.#wasKilled = false;
    this.#isAwaited = false;
    this.#lines = [];
    this.#process = launch(args(), {
      onLine: (line) => {
        this.#lines = [...this.#lines, line].slice(-KEPT_LINES);
        onLine(line);
      },
      onExit: (code, how) => this.#ended(code, how),
    });
  }

  /** SIGKILL; `startAgain` is for whoever called this. */
  kill(): void {
    this.#wasKilled = true;
    this.#process?.kill('SIGKILL');
  }

  /** After a kill. Nothing happens if it has done its work, or is not to be started any more. */
  startAgain(): void {
    if (this.#process !== null) this.#isAwaited = this.#wasKilled;
    else if (!this.#isEnding) this.start();
  }

  stop(): void {
    this.#process?.kill('SIGSTOP');
  }

  goOn(): void {
    this.#process?.kill('SIGCONT');
  }

  /** It is not started any more. */
  retire(): void {
    this.#isEnding = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /** Ends it for good, at once. */
  async end(): Promise<void> {
    this.retire();
    if (this.#process === null) return;
    const ended = new Promise<void>((resolve) => (this.#onEnded = resolve));
    this.#process.kill('SIGKILL');
    await ended;
  }

  #ended(code: number | null, how: string): void {
    const { name, onDown, onDone } = this.#options;
    this.#process = null;
    this.#onEnded?.();
    onDown();
    if (this.#isEnding) return onDone();
    if (this.#wasKilled) {
      if (this.#isAwaited) this.start();
      return;
    }
    if (code === 0) {
      this.retire();
      return onDone();
    }
    this.unexpectedEnds.push({ name, how, lines: this.#lines });
    this.#timer = setTimeout(() => this.startAgain(), RESTART_DELAY_MS);
  }
}
