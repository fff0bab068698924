/**
 * Trainer processes on this machine, started by `galore train` and `galore resume`: watched, restarted
 * when they crash, ended with the run. SHELL, with processes and time as arguments.
 */
import type { RunConfig } from '../config/schema.ts';
import { EXIT_CODES } from './exit-codes.ts';

/** Restarts of one trainer; after that it stays away. */
export const MAX_RESTARTS = 3;
const FIRST_RESTART_DELAY_MS = 1_000;
/** How long trainers may take to leave after the run, and then after being asked to. */
const LEAVE_TIME_MS = 10_000;
const TERMINATE_TIME_MS = 5_000;

/** A process that was started. */
export interface ChildProcessHandle {
  kill(signal: 'SIGTERM' | 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void;
}

/** What a started process tells. */
export interface ChildProcessEvents {
  /** A line of its standard output or error, without the newline. */
  readonly onLine: (line: string) => void;
  /** It ended, or could not be started: `how` is `exit code 1` or `signal SIGKILL`. */
  readonly onExit: (code: number | null, how: string) => void;
}

/** Starts this program with other arguments in a process group of its own, so that Ctrl-C does not reach it. */
export type LaunchProcess = (
  args: readonly string[],
  events: ChildProcessEvents,
  /** Variables laid over those of this process. */
  environment?: Readonly<Record<string, string>>,
) => ChildProcessHandle;

/** CPU threads of each trainer that a run starts on a machine with so many cores. */
export function threadsOf({ trainer, coordinator }: RunConfig, cores: number): number {
  return trainer.threads || Math.max(1, Math.floor(cores / Math.max(1, coordinator.local_trainers)));
}

/** What LocalTrainers needs. */
export interface LocalTrainersOptions {
  readonly count: number;
  readonly launch: LaunchProcess;
  /** Arguments of one trainer's process. */
  readonly argsOf: (trainerId: string, index: number) => readonly string[];
  /** Of each process: what is not for the eyes of other users. */
  readonly environment?: Readonly<Record<string, string>>;
  readonly after: (delayMs: number, callback: () => void) => () => void;
  readonly onLine: (trainerId: string, line: string) => void;
  readonly onNotice: (text: string) => void;
  /** Called once when no trainer is left although the run goes on; `reason` tells how each ended. */
  readonly onAllGone: (reason: string) => void;
}

interface LocalTrainer {
  readonly trainerId: string;
  readonly index: number;
  process: ChildProcessHandle | null;
  restarts: number;
  lastLine: string;
  /** How it ended for good. */
  ending: { readonly code: number | null; readonly because: string } | null;
}

/** The trainers of one run on this machine. */
export class LocalTrainers {
  readonly #options: LocalTrainersOptions;
  readonly #trainers: readonly LocalTrainer[];
  readonly #cancels = new Set<() => void>();
  #isEnding = false;
  #onEmpty: (() => void) | null = null;

  constructor(options: LocalTrainersOptions) {
    this.#options = options;
    this.#trainers = Array.from({ length: options.count }, (_, index) => ({
      trainerId: `trainer-${index + 1}`,
      index,
      process: null,
      restarts: 0,
      lastLine: '',
      ending: null,
    }));
    for (const trainer of this.#trainers) this.#start(trainer);
  }

  /**
   * Waits until all have left. `hasRunEnded` says that they were told so and leave on their own; else, and
   * when that takes too long, they are asked to; when that takes too long, they are killed.
   */
  async close(hasRunEnded: boolean): Promise<void> {
    this.#beginEnding();
    if (!this.#isAnyRunning()) return;
    await new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
      if (hasRunEnded) this.#later(LEAVE_TIME_MS, () => this.#terminate());
      else this.#terminate();
    });
    this.#cancelTimers();
  }

  /** Ends all at once. */
  kill(): void {
    this.#beginEnding();
    this.#signalAll('SIGKILL');
  }

  #start(trainer: LocalTrainer): void {
    const { launch, argsOf, environment, onLine } = this.#options;
    const events: ChildProcessEvents = {
      onLine: (line) => {
        if (line.trim() !== '') trainer.lastLine = line.trim();
        onLine(trainer.trainerId, line);
      },
      onExit: (code, how) => this.#ended(trainer, code, how),
    };
    trainer.process = launch(argsOf(trainer.trainerId, trainer.index), events, environment);
  }

  #ended(trainer: LocalTrainer, code: number | null, how: string): void {
    trainer.process = null;
    if (this.#isEnding) {
      if (!this.#isAnyRunning()) this.#onEmpty?.();
      return;
    }
    const because = trainer.lastLine === '' ? how : `${how}: ${trainer.lastLine}`;
    // 0: the coordinator sent it away. 2 and 3: it would fail in the same way again.
    const mayRestart =
      code !== EXIT_CODES.OK && code !== EXIT_CODES.BAD_INPUT && code !== EXIT_CODES.CANNOT_CONTINUE;
    if (mayRestart && trainer.restarts < MAX_RESTARTS) {
      trainer.restarts += 1;
      const attempt = `restart ${trainer.restarts} of ${MAX_RESTARTS}`;
      this.#options.onNotice(`${trainer.trainerId} ended (${because}); ${attempt}`);
      this.#later(FIRST_RESTART_DELAY_MS * 2 ** (trainer.restarts - 1), () => this.#start(trainer));
      return;
    }
    trainer.ending = { code, because };
    if (code !== EXIT_CODES.OK) this.#options.onNotice(`${trainer.trainerId} ended for good (${because})`);
    this.#checkAllGone();
  }

  /** One that left with code 0 was told that the run has ended: then the coordinator is about to end too. */
  #checkAllGone(): void {
    const endings = this.#trainers.map(({ ending }) => ending);
    if (endings.some((ending) => ending === null || ending.code === EXIT_CODES.OK)) return;
    const reasons = this.#trainers.map(({ trainerId, ending }) => `${trainerId}: ${ending?.because}`);
    this.#options.onAllGone(reasons.join('; '));
  }

  #beginEnding(): void {
    this.#isEnding = true;
    this.#cancelTimers();
  }

  #terminate(): void {
    this.#signalAll('SIGTERM');
    this.#later(TERMINATE_TIME_MS, () => this.#signalAll('SIGKILL'));
  }

  #later(delayMs: number, callback: () => void): void {
    const cancel = this.#options.after(delayMs, () => {
      this.#cancels.delete(cancel);
      callback();
    });
    this.#cancels.add(cancel);
  }

  #cancelTimers(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels.clear();
  }

  #signalAll(signal: 'SIGTERM' | 'SIGKILL'): void {
    for (const { process } of this.#trainers) process?.kill(signal);
  }

  #isAnyRunning(): boolean {
    return this.#trainers.some(({ process }) => process !== null);
  }
}
