/** Measures a coordinator with trainers that compute nothing; what `galore bench coordinator` does. SHELL. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BenchCoordinator, type ProcessUsage } from '../coordinator/bench-process.ts';
import { deferred } from '../deferred.ts';
import { OperatingError } from '../errors.ts';
import type { WelcomeMessage } from '../protocol/messages.ts';
import { LightTrainer, SharedContribution } from '../trainer/light-trainer.ts';
import { TEXT_NAME, TOKENS_PER_TRAINER, type BenchLoad } from './bench-load.ts';

/** Steps before the first that counts: code is compiled and buffers are made in them. */
export const WARM_UP_STEPS = 2;
/** Idle trainers are left alone this long before they count. */
const SETTLE_MS = 1_000;
/** Something to take sequences from. */
const TEXT_BYTES = 65_536;

export interface CoordinatorMeasurement {
  /** From one announcement to the next: of the median, the shortest and the longest step. */
  readonly secondsPerStep: number;
  readonly shortestSeconds: number;
  readonly longestSeconds: number;
  /** Processor time of the coordinator's process in all timed steps. */
  readonly cpuSeconds: number;
  /** Of this process in the same time: the trainers. */
  readonly clientCpuSeconds: number;
  /** Resident memory of the coordinator's process at its highest. */
  readonly coordinatorRssBytes: number;
}

export interface IdleMeasurement {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly coordinatorRssBytes: number;
}

/** What is measured and who may end it early. */
export interface CoordinatorBench {
  readonly load: BenchLoad;
  readonly trainers: number;
  /** Rejects when the measurement is to be given up. */
  readonly interrupted: Promise<never>;
}

/** Times steps. @throws OperatingError if the coordinator or a connection fails */
export function measureSteps(bench: CoordinatorBench, steps: number): Promise<CoordinatorMeasurement> {
  const done = deferred<void>();
  const usages: ProcessUsage[] = [];
  const client: number[] = [];
  const onStep = (step: number, usage: ProcessUsage): void => {
    if (step < WARM_UP_STEPS) return;
    usages.push(usage);
    client.push(clientCpuSeconds());
    if (usages.length === steps + 1) done.resolve();
  };
  const contribution = new SharedContribution(bench.load.sizes, TOKENS_PER_TRAINER);
  return withCoordinator(bench, contribution, onStep, async () => {
    await done.promise;
    const seconds = usages.slice(1).map(({ nowMs }, i) => (nowMs - usages[i]!.nowMs) / 1000);
    const ascending = seconds.toSorted((a, b) => a - b);
    return {
      secondsPerStep: ascending[Math.floor((steps - 1) / 2)]!,
      shortestSeconds: ascending[0]!,
      longestSeconds: ascending.at(-1)!,
      cpuSeconds: usages[steps]!.cpuSeconds - usages[0]!.cpuSeconds,
      clientCpuSeconds: client[steps]! - client[0]!,
      coordinatorRssBytes: usages[steps]!.rssBytes,
    };
  });
}

/** Measures a coordinator whose trainers wait. @throws OperatingError as `measureSteps` */
export function measureIdle(bench: CoordinatorBench, seconds: number): Promise<IdleMeasurement> {
  return withCoordinator(
    bench,
    null,
    () => {},
    async (coordinator) => {
      await pause(SETTLE_MS);
      const before = await coordinator.usage();
      await pause(seconds * 1000);
      const after = await coordinator.usage();
      return {
        seconds: (after.nowMs - before.nowMs) / 1000,
        cpuSeconds: after.cpuSeconds - before.cpuSeconds,
        coordinatorRssBytes: after.rssBytes,
      };
    },
  );
}

/** Starts a coordinator in a temporary folder, connects the trainers, measures, and takes all of it away. */
async function withCoordinator<T>(
  { load, trainers, interrupted }: CoordinatorBench,
  contribution: SharedContribution | null,
  onStep: (step: number, usage: ProcessUsage) => void,
  measure: (coordinator: BenchCoordinator) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'galore-bench-'));
  let coordinator: BenchCoordinator | null = null;
  const connected: LightTrainer[] = [];
  try {
    await writeFile(join(folder, TEXT_NAME), 'galore '.repeat(TEXT_BYTES / 7));
    const lost = deferred<never>();
    lost.promise.catch(() => {});
    const process = new BenchCoordinator({ document: load.documentIn(folder), folder }, onStep);
    coordinator = process;
    const orFailure = <R>(work: Promise<R>): Promise<R> =>
      Promise.race([work, process.failed, lost.promise, interrupted]);
    const welcomed = (url: string, trainerId: string, runId: string | null): Promise<WelcomeMessage> =>
      new Promise((resolve) => {
        const onEnd = (reason: string): void => lost.reject(new OperatingError(reason));
        const trainer = new LightTrainer({ url, trainerId, runId, contribution, onWelcome: resolve, onEnd });
        connected.push(trainer);
      });
    const url = await orFailure(process.listening());
    const { runId } = await orFailure(welcomeOf(url));
    const ids = Array.from({ length: trainers }, (_, index) => `trainer-${index + 1}`);
    await orFailure(Promise.all(ids.map((id) => welcomed(url, id, runId))));
    return await orFailure(measure(process));
  } finally {
    for (const trainer of connected) trainer.close();
    await coordinator?.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** What a coordinator says to a trainer that leaves again: with the id of its run nobody else needs a snapshot. */
function welcomeOf(url: string): Promise<WelcomeMessage> {
  return new Promise((resolve, reject) => {
    const onWelcome = (welcome: WelcomeMessage): void => {
      scout.close();
      resolve(welcome);
    };
    const onEnd = (reason: string): void => reject(new OperatingError(reason));
    const scout = new LightTrainer({
      url,
      trainerId: 'scout',
      runId: null,
      contribution: null,
      onWelcome,
      onEnd,
    });
  });
}

function clientCpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
