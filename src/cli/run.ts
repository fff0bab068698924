/**
 * A coordinator in this process, and where asked for trainers beside it, from the first word to the
 * exit code: what `galore coordinator`, `galore train` and `galore resume` have in common. SHELL.
 */
import { OperatingError } from '../errors.ts';
import type { RunningCoordinator, RunReport, RunSummary } from '../coordinator/api.ts';
import { createLogger, printable, type Logger } from '../log.ts';
import type { ReadyDevice } from '../trainer/engine/ready-device.ts';
import { commandLogger } from './command-logger.ts';
import type { CliContext } from './context.ts';
import { createJsonReporter, createReporter, Display } from './display.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { onInterrupt } from './interrupts.ts';
import { LocalTrainers, threadsOf } from './local-trainers.ts';
import type { OutputOptions } from './options.ts';
import { summaryLines } from './progress.ts';
import type { PreparedRun } from './run-file.ts';
import { shellWord, shownPath } from './words.ts';

/** A run to carry out. */
export interface RunRequest extends PreparedRun {
  readonly mode: 'new' | 'resume';
  readonly stopAtStep?: number | undefined;
  /** Take part in leading a run, whoever leads it at the moment. */
  readonly isStandby?: boolean;
  readonly output: OutputOptions;
}

/** Carries out the run and resolves to the exit code. */
export async function carryOut(context: CliContext, request: RunRequest): Promise<number> {
  const display = new Display(context.stdout, context.stderr, context.environment.mayRedraw);
  try {
    return await new Run(context, request, display).toEnd();
  } finally {
    display.close();
  }
}

class Run {
  readonly #context: CliContext;
  readonly #request: RunRequest;
  readonly #display: Display;
  readonly #logger: Logger;
  readonly #report: (report: RunReport) => void;
  #coordinator: RunningCoordinator | null = null;
  #trainers: LocalTrainers | null = null;
  #isStopping = false;
  #hasStepped = false;
  /** The run is ending: trainers that lose their connection are no trouble. */
  #isOver = false;
  #failure: string | null = null;

  constructor(context: CliContext, request: RunRequest, display: Display) {
    const { logJson } = request.output;
    this.#context = context;
    this.#request = request;
    this.#display = display;
    this.#logger = commandLogger(context, display, request.output, { run: request.config.name });
    const show = logJson ? createJsonReporter(this.#jsonOutput()) : createReporter(display, this.#shownPath);
    this.#report = (report) => {
      if (report.type === 'step') {
        this.#hasStepped = true;
        if (report.step === request.stopAtStep) this.#isOver = true;
      }
      show(report);
    };
  }

  async toEnd(): Promise<number> {
    using _ = onInterrupt(this.#context.signals, {
      first: () => this.#stopInGoodOrder(),
      again: () => this.#endAtOnce(),
    });
    this.#context.onParentGone?.(() => this.#stopInGoodOrder());
    const { config, notice, mode, stopAtStep } = this.#request;
    if (notice !== null) this.#notice(notice);
    // Once, before several trainers need it at the same time.
    const { local_trainers: count } = config.coordinator;
    const devices = count > 0 ? await this.#context.services.ensureEngine(config.trainer.device, count) : [];
    const coordinator = await this.#context.services.startCoordinator({
      config,
      mode,
      cacheDir: this.#context.environment.cacheDir,
      natsCredentials: this.#context.environment.nats,
      logger: this.#logger,
      onReport: this.#report,
      ...(stopAtStep === undefined ? {} : { stopAtStep }),
      ...(this.#request.isStandby === true ? { isStandby: true } : {}),
    });
    this.#coordinator = coordinator;
    if (this.#isStopping) coordinator.stop();
    this.#sayWhereToJoin(coordinator);
    if (count > 0 && !this.#isStopping) {
      this.#trainers = this.#startTrainers(coordinator, devices);
    }
    let doTrainersKnow = false;
    try {
      const summary = await coordinator.finished;
      // A run that was complete when it was opened may end before a trainer has connected.
      doTrainersKnow = summary.outcome === 'completed' && this.#hasStepped;
      return this.#conclude(summary);
    } catch (error) {
      // Ending at once may fail in its own way; what made it necessary is the better explanation.
      if (this.#failure !== null) throw new OperatingError(this.#failure, { cause: error });
      if (!(error instanceof OperatingError)) throw error;
      const advice = `every committed step is kept\nto go on: ${this.#resumeCommand(config.dir)}`;
      throw new OperatingError(`${error.message}; ${advice}`, { cause: error });
    } finally {
      this.#isOver = true;
      await this.#trainers?.close(doTrainersKnow);
    }
  }

  #stopInGoodOrder(): void {
    this.#isStopping = true;
    this.#isOver = true;
    const when = this.#coordinator === null ? 'as soon as the run has been opened' : 'after this step';
    this.#notice(`stopping ${when}, with a checkpoint; again to quit at once`);
    this.#coordinator?.stop();
  }

  #endAtOnce(): void {
    this.#trainers?.kill();
    this.#coordinator?.stop();
    this.#display.close();
    this.#context.exitNow(EXIT_CODES.INTERRUPTED);
  }

  #sayWhereToJoin({ url, asksForTokens, isStandby = false }: RunningCoordinator): void {
    const { local_trainers: localTrainers, start_trainers: startTrainers } = this.#request.config.coordinator;
    if (localTrainers > 0) return;
    if (isStandby) return this.#notice(`listening on ${url} as a standby`);
    const command = `${this.#context.commandName} trainer ${url}${asksForTokens ? ' --token-file FILE' : ''}`;
    this.#notice(`listening on ${url}; waiting for ${startTrainers} to join: ${command}`);
  }

  #startTrainers(
    { localUrl, localToken }: RunningCoordinator,
    devices: readonly ReadyDevice[],
  ): LocalTrainers {
    const { config, output } = this.#request;
    const count = config.coordinator.local_trainers;
    const threads = threadsOf(config, this.#context.cores);
    // `info` of every trainer would drown what the run itself has to say.
    const logLevel = output.logLevel === 'info' ? 'warn' : output.logLevel;
    return new LocalTrainers({
      count,
      launch: this.#context.launchProcess,
      after: this.#context.after,
      // In no argument, where every user of the machine could read it.
      environment: { GALORE_TOKEN: localToken },
      argsOf: (trainerId, index) => [
        'trainer',
        localUrl,
        ...['--id', trainerId, '--run', config.name, '--threads', String(threads)],
        ...['--device', devices[index]?.name ?? 'auto'],
        ...['--precision', config.trainer.precision],
        ...['--quiet', '--log-level', logLevel],
        ...(output.logJson ? ['--log-json'] : []),
        ...(output.debug ? ['--debug'] : []),
      ],
      onLine: (trainerId, line) => this.#trainerLine(trainerId, line),
      onNotice: (text) => this.#notice(text),
      onAllGone: (reason) => this.#giveUp(reason),
    });
  }

  #trainerLine(trainerId: string, line: string): void {
    // That it cannot reach a coordinator which is ending is no news.
    if (this.#isOver && this.#request.output.logLevel !== 'debug') return;
    if (!this.#request.output.logJson) this.#display.error(`${trainerId} | ${printable(line)}\n`);
    else if (line.startsWith('{')) this.#display.error(`${line}\n`);
    else this.#logger.warn('trainer.output', { trainer: trainerId }, line);
  }

  /** Nobody is left to train. Every committed step is on disk: the coordinator may end at once. */
  #giveUp(reason: string): void {
    this.#failure = `no trainer is left (${reason})`;
    this.#coordinator?.stop();
    this.#coordinator?.stop();
  }

  #conclude(summary: RunSummary): number {
    const dir = shellWord(this.#shownPath(summary.dir));
    const command = this.#context.commandName;
    const resume = this.#resumeCommand(summary.dir);
    const failure = this.#failureOf(summary);
    if (failure !== null) {
      const text = `${failure}; ${summary.step} of ${summary.totalSteps} steps are kept`;
      if (this.#request.output.logJson) this.#logger.error('run.failed', { ...summary }, text);
      else this.#display.error(`error: ${text}\nto go on: ${resume}\n`);
      return EXIT_CODES.CANNOT_CONTINUE;
    }
    if (this.#request.output.logJson) {
      this.#jsonOutput().info(`run.${summary.outcome}`, { ...summary, resume }, `run ${summary.outcome}`);
      return EXIT_CODES.OK;
    }
    const isClassifier = this.#request.config.task.type === 'sequence-classification';
    const generate = isClassifier
      ? `${command} predict ${dir} "You have won"`
      : `${command} generate ${dir} --prompt "Once upon a time"`;
    this.#display.close();
    for (const line of summaryLines(summary, { path: this.#shownPath, resume, generate }))
      this.#display.line(line);
    return EXIT_CODES.OK;
  }

  /** Why the run has not ended as it should; null when it has. */
  #failureOf({ outcome, step, checkpointFailure }: RunSummary): string | null {
    if (this.#failure !== null && outcome !== 'completed') return this.#failure;
    if (checkpointFailure === null) return null;
    return `there is no checkpoint of step ${step}: ${checkpointFailure}`;
  }

  #resumeCommand(dir: string): string {
    return `${this.#context.commandName} resume ${shellWord(this.#shownPath(dir))}`;
  }

  readonly #shownPath = (path: string): string => shownPath(this.#context.workingDir, path);

  #notice(text: string): void {
    this.#report({ type: 'notice', text });
  }

  /** What `--log-json` writes to standard output in place of progress. */
  #jsonOutput(): Logger {
    return createLogger({
      level: 'info',
      format: 'json',
      mayColour: false,
      write: (line) => this.#display.line(line.trimEnd()),
      fields: { run: this.#request.config.name },
    });
  }
}
