/**
 * One run of real processes with faults: a coordinator, trainers, and a link for each trainer that can be cut.
 * Ends when the run has ended, or nothing has happened for too long. SHELL.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { resolvedYaml } from '../../config/load.ts';
import type { RunConfig } from '../../config/schema.ts';
import { deferred, type Deferred } from '../../deferred.ts';
import { InterruptedError } from '../interrupts.ts';
import type { LaunchProcess } from '../local-trainers.ts';
import { COORDINATOR, type Fault } from './faults.ts';
import { Link } from './link.ts';
import { Member, type UnexpectedEnd } from './member.ts';
import { readLogLine, type ToldStep } from './observed.ts';
import { Timers } from './timers.ts';

/** How long trainers may take to leave when the coordinator has. */
const LEAVE_TIME_MS = 10_000;

export interface ChaosRequest {
  /** `dir` is where the run directory is to be. */
  readonly config: RunConfig;
  /** For files beside the run directory. */
  readonly scratch: string;
  readonly trainerIds: readonly string[];
  readonly threads: number;
  readonly faults: readonly Fault[];
  readonly launch: LaunchProcess;
  /** No new step, and no fault that is over, for so long: the run hangs. */
  readonly patienceMs: number;
  /** Aborted: the run is killed. */
  readonly signal: AbortSignal;
  readonly onStep: (step: number) => void;
  readonly onFault: (fault: Fault) => void;
}

/** A fault that came about. */
export interface FiredFault extends Fault {
  /** From when it was over (a kill: from the kill) to the next committed step; null: no step came after it. */
  readonly recoverySeconds: number | null;
}

/** What came of the run. */
export interface ChaosRecord {
  readonly fired: readonly FiredFault[];
  readonly told: readonly ToldStep[];
  /** What the coordinator told at its end; null: it hung. */
  readonly weightsSha256: string | null;
  /** Of the last step, by trainer, from those that told it. */
  readonly trainerWeights: ReadonlyMap<string, string>;
  readonly unexpectedEnds: readonly UnexpectedEnd[];
  readonly seconds: number;
}

/** @throws InterruptedError when it was ended from outside */
export async function runWithFaults(request: ChaosRequest): Promise<ChaosRecord> {
  const links = new Map<string, Link>();
  for (const trainerId of request.trainerIds) links.set(trainerId, await Link.open());
  const run = new ChaosRun(request, links);
  try {
    return await run.toEnd();
  } finally {
    await run.close();
  }
}

/** Of the process of a trainer that connects there. */
export function trainerArgs(
  { config: { trainer }, threads }: Pick<ChaosRequest, 'config' | 'threads'>,
  trainerId: string,
  url: string,
): readonly string[] {
  return [
    ...['trainer', url, '--id', trainerId, '--threads', String(threads)],
    ...['--device', trainer.device, '--precision', trainer.precision],
    ...['--quiet', '--log-json', '--log-level', 'info'],
  ];
}

/** Until the run has ended, `look` is called; it hangs when `progressMs` is too long ago. @throws InterruptedError */
export async function untilEnded(
  ended: Deferred<'done' | 'hung'>,
  { signal, patienceMs }: Pick<ChaosRequest, 'signal' | 'patienceMs'>,
  { everyMs, progressMs, look = () => {} }: EndWatch,
  begin: () => Promise<void>,
): Promise<void> {
  const interrupt = (): void => ended.reject(new InterruptedError('the processes of the run are ended'));
  signal.addEventListener('abort', interrupt, { once: true });
  if (signal.aborted) interrupt();
  const watch = setInterval(() => {
    if (performance.now() - progressMs() > patienceMs) ended.resolve('hung');
    look();
  }, everyMs);
  try {
    await begin();
    await ended.promise;
  } finally {
    clearInterval(watch);
    signal.removeEventListener('abort', interrupt);
  }
}

interface EndWatch {
  readonly everyMs: number;
  /** When the run got on last; of `performance.now()`. */
  readonly progressMs: () => number;
  readonly look?: () => void;
}

/** A fault that has begun. Times of `performance.now()`. */
interface Firing {
  readonly fault: Fault;
  overMs: number | null;
  /** Of the first step committed after it. */
  recoveredMs: number | null;
}

class ChaosRun {
  readonly #request: ChaosRequest;
  readonly #links: ReadonlyMap<string, Link>;
  readonly #members = new Map<string, Member>();
  readonly #ended = deferred<'done' | 'hung'>();
  readonly #told: ToldStep[] = [];
  readonly #trainerWeights = new Map<string, string>();
  readonly #timers = new Timers();
  readonly #fired: Firing[] = [];
  /** Not yet begun; those whose time has come and whose target is not there wait for it. */
  #waiting: readonly Fault[];
  readonly #due = new Set<Fault>();
  #file = '';
  #starts = 0;
  #weightsSha256: string | null = null;
  #progressMs = performance.now();

  constructor(request: ChaosRequest, links: ReadonlyMap<string, Link>) {
    this.#request = request;
    this.#links = links;
    this.#waiting = request.faults;
  }

  async toEnd(): Promise<ChaosRecord> {
    const { config, scratch, trainerIds } = this.#request;
    const startedMs = performance.now();
    const watch = { everyMs: 1_000, progressMs: () => this.#progressMs };
    await untilEnded(this.#ended, this.#request, watch, async () => {
      this.#file = join(scratch, 'run.yaml');
      await writeFile(this.#file, resolvedYaml(config));
      this.#add(COORDINATOR, () => this.#coordinatorArgs());
      for (const trainerId of trainerIds) {
        const { url } = this.#links.get(trainerId)!;
        this.#add(trainerId, () => trainerArgs(this.#request, trainerId, url));
      }
      for (const member of this.#members.values()) member.start();
    });
    return {
      fired: this.#fired.map(({ fault, overMs, recoveredMs }) => ({
        ...fault,
        recoverySeconds: overMs === null || recoveredMs === null ? null : (recoveredMs - overMs) / 1000,
      })),
      told: this.#told,
      weightsSha256: this.#weightsSha256,
      trainerWeights: this.#trainerWeights,
      unexpectedEnds: [...this.#members.values()].flatMap(({ unexpectedEnds }) => unexpectedEnds),
      seconds: (performance.now() - startedMs) / 1000,
    };
  }

  async close(): Promise<void> {
    this.#timers.clear();
    await Promise.all([...this.#members.values()].map((member) => member.end()));
    for (const link of this.#links.values()) link.close();
  }

  #add(name: string, args: () => readonly string[]): void {
    const member: Member = new Member({
      ...{ name, args, launch: this.#request.launch },
      onLine: (line) => this.#read(name, line),
      onDown: () => {
        if (name === COORDINATOR) this.#lead(null);
      },
      onDone: () => this.#checkDone(),
    });
    this.#members.set(name, member);
  }

  #coordinatorArgs(): readonly string[] {
    const logs = ['--log-json', '--log-level', 'warn'];
    const isFirst = this.#starts === 0;
    this.#starts += 1;
    const { dir } = this.#request.config;
    return isFirst ? ['coordinator', this.#file, ...logs] : ['resume', dir, '--trainers', '0', ...logs];
  }

  #read(name: string, text: string): void {
    const line = readLogLine(text);
    if (line?.type === 'listening') {
      this.#lead(line.port);
      this.#fireDue();
    } else if (line?.type === 'step') {
      this.#stepDone(line);
    } else if (line?.type === 'completed') {
      this.#weightsSha256 = line.weightsSha256;
      this.#waiting = [];
      this.#due.clear();
    } else if (line?.type === 'weights' && line.step === this.#request.config.steps) {
      this.#trainerWeights.set(name, line.weightsSha256);
    }
  }

  #lead(port: number | null): void {
    for (const link of this.#links.values()) link.targetPort = port;
  }

  #stepDone({ step, loss }: ToldStep): void {
    const nowMs = performance.now();
    this.#told.push({ step, loss });
    this.#progressMs = nowMs;
    for (const each of this.#fired) if (each.overMs !== null) each.recoveredMs ??= nowMs;
    for (const fault of this.#waiting.filter((each) => each.step <= step)) {
      this.#timers.later(fault.delayMs, () => {
        this.#due.add(fault);
        this.#fireDue();
      });
    }
    this.#waiting = this.#waiting.filter((fault) => fault.step > step);
    this.#request.onStep(step);
  }

  #fireDue(): void {
    for (const fault of this.#due) {
      if (this.#weightsSha256 !== null || this.#members.get(fault.target)?.isUp !== true) continue;
      this.#due.delete(fault);
      this.#fire(fault);
    }
  }

  #fire(fault: Fault): void {
    const { verb, target, durationMs, latencyMs } = fault;
    const fired: Firing = { fault, overMs: null, recoveredMs: null };
    this.#fired.push(fired);
    this.#request.onFault(fault);
    const member = this.#members.get(target)!;
    const links = target === COORDINATOR ? [...this.#links.values()] : [this.#links.get(target)!];
    const over = (): void => {
      fired.overMs ??= performance.now();
      this.#progressMs = performance.now();
    };
    const undo = (action: () => void): void =>
      this.#timers.later(durationMs, () => {
        action();
        over();
        this.#fireDue();
      });
    switch (verb) {
      case 'kill':
        member.kill();
        over();
        return undo(() => member.startAgain());
      case 'stop':
        member.stop();
        return undo(() => member.goOn());
      case 'cut':
        for (const link of links) link.cut();
        return undo(() => links.forEach((link) => link.mend()));
      case 'isolate':
        for (const link of links) link.isolate();
        return undo(() => links.forEach((link) => link.mend()));
      case 'delay':
        for (const link of links) link.delay(latencyMs);
        return undo(() => links.forEach((link) => link.mend()));
      default:
        verb satisfies never;
    }
  }

  /** The run has ended for all, or for those that were there: a trainer that was not has nobody to ask. */
  #checkDone(): void {
    const members = [...this.#members.values()];
    if (members.every(({ isUp }) => !isUp)) return this.#ended.resolve('done');
    if (this.#members.get(COORDINATOR)?.isUp !== false) return;
    for (const member of members) member.retire();
    this.#timers.later(LEAVE_TIME_MS, () => this.#ended.resolve('done'));
  }
}
