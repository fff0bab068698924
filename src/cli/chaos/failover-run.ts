/**
 * One run of several coordinators, trainers and nats-servers, all of them real processes. Faults come one after the
 * other: the next one when the run goes on and somebody stands by again. SHELL.
 */
import { appendFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { resolvedYaml } from '../../config/load.ts';
import type { RunConfig } from '../../config/schema.ts';
import { openStateStore } from '../../coordinator/open-authority.ts';
import { scanSoundPart } from '../../coordinator/store/journal-scan.ts';
import { deferred } from '../../deferred.ts';
import { trainerArgs, untilEnded, type ChaosRecord, type ChaosRequest } from './chaos-run.ts';
import { NATS } from './failover-faults.ts';
import type { Fault } from './faults.ts';
import { Link } from './link.ts';
import { Member } from './member.ts';
import { NatsServers } from './nats-servers.ts';
import { readLogLine, type ToldStep } from './observed.ts';
import { Timers } from './timers.ts';

const LEAVE_TIME_MS = 10_000;
const WHOLE_LOOK_MS = 250;
/** Unless the run's file says otherwise. */
const LEASE_MS = 3_000;

export interface FailoverRequest extends Omit<ChaosRequest, 'config'> {
  /** `dir` is where the run directories are to be, one for each coordinator. */
  readonly config: RunConfig;
  readonly coordinators: number;
  readonly natsNodes: number;
}

export interface FailoverRecord extends ChaosRecord {
  /** The run directory of the coordinator that led last, and its configuration as it was given. */
  readonly config: RunConfig;
  /** Leaders there were. */
  readonly epochs: number;
  /** See FailoverVerdict. */
  readonly recordsUnlikeStore: number;
}

/** @throws InterruptedError, OperatingError where there is no nats-server */
export async function runWithFailover(request: FailoverRequest): Promise<FailoverRecord> {
  const servers = await NatsServers.start(request.natsNodes, join(request.scratch, 'nats'));
  const run = new FailoverRun(request, servers);
  try {
    const record = await run.toEnd();
    const recordsUnlikeStore = await compareWithStore(withState(record.config, servers.ports));
    return { ...record, recordsUnlikeStore };
  } finally {
    await run.close();
    await servers.close();
  }
}

/** Records of the store that the journal has otherwise, or lacks, or has beyond it. */
async function compareWithStore(config: RunConfig): Promise<number> {
  const digests = new Map<number, string>();
  await scanSoundPart(join(config.dir, 'journal'), {
    onCommit: ({ sequence, digest }) => digests.set(sequence, hex(digest)),
  });
  const first = Math.min(...digests.keys());
  const store = await openStateStore({ config });
  let unlike = 0;
  try {
    for await (const { sequence, digest } of store.records(Number.isFinite(first) ? first : 1)) {
      if (digests.get(sequence) !== hex(digest)) unlike++;
      digests.delete(sequence);
    }
  } finally {
    await store.close();
  }
  return unlike + digests.size;
}

function withState(config: RunConfig, ports: readonly number[]): RunConfig {
  const url = ports.map((port) => `nats://127.0.0.1:${port}`).join();
  return { ...config, state: { lease_ms: LEASE_MS, ...config.state, url } };
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

/** One coordinator: its way to NATS, and the way of trainers to it. */
interface Seat {
  readonly name: string;
  readonly config: RunConfig;
  readonly file: string;
  readonly door: Link;
  readonly natsLinks: readonly Link[];
  readonly member: Member;
  isMirroring: boolean;
}

interface Firing {
  readonly fault: Fault;
  readonly atMs: number;
  /** Of a nats-server: until the cluster is whole again. The run may go on for a moment, wait, and go on. */
  isLasting: boolean;
  /** The longest time without a new step, from the fault on. */
  longestMs: number;
  isOver: boolean;
}

class FailoverRun {
  readonly #request: FailoverRequest;
  readonly #servers: NatsServers;
  readonly #seats: Seat[] = [];
  readonly #trainers: Member[] = [];
  readonly #links: Link[] = [];
  readonly #ended = deferred<'done' | 'hung'>();
  readonly #told: ToldStep[] = [];
  readonly #trainerWeights = new Map<string, string>();
  readonly #timers = new Timers();
  readonly #fired: Firing[] = [];
  #waiting: readonly Fault[];
  #isDue = false;
  #leader: Seat | null = null;
  #winner: Seat | null = null;
  #epochs = 0;
  #step = 0;
  #natsTurn = 0;
  #weightsSha256: string | null = null;
  #progressMs = performance.now();

  constructor(request: FailoverRequest, servers: NatsServers) {
    this.#request = request;
    this.#servers = servers;
    this.#waiting = request.faults;
  }

  async toEnd(): Promise<Omit<FailoverRecord, 'recordsUnlikeStore'>> {
    const { coordinators, trainerIds } = this.#request;
    const startedMs = performance.now();
    const watch = { everyMs: 100, progressMs: () => this.#progressMs, look: () => this.#fireNext() };
    await untilEnded(this.#ended, this.#request, watch, async () => {
      for (let i = 0; i < coordinators; i++) this.#seats.push(await this.#makeSeat(i));
      for (const { member } of this.#seats) member.start();
      for (const trainerId of trainerIds) this.#addTrainer(trainerId);
      for (const trainer of this.#trainers) trainer.start();
    });
    const members = [...this.#seats.map(({ member }) => member), ...this.#trainers];
    return {
      fired: this.#fired.map(({ fault, longestMs, isOver }) => ({
        ...fault,
        recoverySeconds: isOver ? longestMs / 1000 : null,
      })),
      told: this.#told,
      weightsSha256: this.#weightsSha256,
      trainerWeights: this.#trainerWeights,
      unexpectedEnds: members.flatMap(({ unexpectedEnds }) => unexpectedEnds),
      seconds: (performance.now() - startedMs) / 1000,
      config: (this.#winner ?? this.#seats[0]!).config,
      epochs: this.#epochs,
    };
  }

  async close(): Promise<void> {
    this.#timers.clear();
    await Promise.all(
      [...this.#seats.map(({ member }) => member), ...this.#trainers].map((each) => each.end()),
    );
    for (const link of this.#links) link.close();
  }

  async #link(port: number | null): Promise<Link> {
    const link = await Link.open();
    link.targetPort = port;
    this.#links.push(link);
    return link;
  }

  async #makeSeat(index: number): Promise<Seat> {
    const { config: given, scratch } = this.#request;
    const name = `coordinator-${index + 1}`;
    const door = await this.#link(null);
    const natsLinks = await Promise.all(this.#servers.ports.map((port) => this.#link(port)));
    const ports = natsLinks.map(({ url }) => Number(new URL(url).port));
    const config = withState({ ...given, dir: join(given.dir, name) }, ports);
    const file = join(scratch, `${name}.yaml`);
    await mkdir(given.dir, { recursive: true });
    await writeFile(file, resolvedYaml(config));
    const args = ['coordinator', file, '--standby', '--log-json', '--log-level', 'warn'];
    const member = new Member({
      ...{ name, args: () => args, launch: this.#request.launch },
      onLine: (line) => {
        // What each has said is the first thing to look at when something went wrong.
        appendFileSync(join(scratch, `${name}.log`), `${line}\n`);
        this.#readCoordinator(seat, line);
      },
      onDown: () => {
        door.targetPort = null;
        seat.isMirroring = false;
        if (this.#leader === seat) this.#leader = null;
      },
      onDone: () => this.#checkDone(),
    });
    const seat: Seat = { name, config, file, door, natsLinks, member, isMirroring: false };
    return seat;
  }

  #addTrainer(trainerId: string): void {
    const { config, launch } = this.#request;
    const args = trainerArgs(this.#request, trainerId, this.#seats.map(({ door }) => door.url).join());
    const member = new Member({
      ...{ name: trainerId, args: () => args, launch },
      onLine: (text) => {
        const line = readLogLine(text);
        if (line?.type === 'weights' && line.step === config.steps)
          this.#trainerWeights.set(trainerId, line.weightsSha256);
      },
      onDown: () => {},
      onDone: () => this.#checkDone(),
    });
    this.#trainers.push(member);
  }

  #readCoordinator(seat: Seat, text: string): void {
    const line = readLogLine(text);
    switch (line?.type) {
      case 'listening':
        seat.door.targetPort = line.port;
        return;
      case 'leading':
        this.#leader = seat;
        this.#winner = seat;
        seat.isMirroring = false;
        this.#epochs = Math.max(this.#epochs, line.epoch);
        return;
      case 'standingBy':
        seat.isMirroring = true;
        if (this.#leader === seat) this.#leader = null;
        return;
      case 'step':
        return this.#stepDone(line);
      case 'completed':
        if (this.#weightsSha256 === null) this.#winner = seat;
        this.#weightsSha256 ??= line.weightsSha256;
        this.#waiting = [];
        return;
      default:
        return;
    }
  }

  #stepDone({ step, loss }: ToldStep): void {
    this.#told.push({ step, loss });
    // A leader that was stopped tells of its last step when it goes on.
    if (step <= this.#step) return;
    const beforeMs = this.#progressMs;
    this.#step = step;
    this.#progressMs = performance.now();
    for (const each of this.#fired) {
      if (each.isOver) continue;
      each.longestMs = Math.max(each.longestMs, this.#progressMs - Math.max(beforeMs, each.atMs));
      each.isOver = !each.isLasting;
    }
    this.#request.onStep(step);
    this.#fireNext();
  }

  /** The next one, if its time has come, all before it are over, and somebody can take over. */
  #fireNext(): void {
    const [fault] = this.#waiting;
    if (fault === undefined || this.#isDue || fault.step > this.#step) return;
    if (this.#fired.some(({ isOver }) => !isOver)) return;
    const isWatched = this.#seats.some(({ isMirroring, member }) => isMirroring && member.isUp);
    if (this.#leader === null || !isWatched) return;
    this.#isDue = true;
    this.#timers.later(fault.delayMs, () => {
      this.#isDue = false;
      const leader = this.#leader;
      if (leader === null || !leader.member.isUp || this.#weightsSha256 !== null) return;
      this.#waiting = this.#waiting.slice(1);
      this.#fire(fault, leader);
    });
  }

  #fire(fault: Fault, leader: Seat): void {
    const { durationMs, verb, target } = fault;
    const isLasting = target === NATS;
    const firing: Firing = { fault, atMs: performance.now(), isLasting, longestMs: 0, isOver: false };
    this.#fired.push(firing);
    this.#request.onFault(fault);
    if (target === NATS) {
      const index = this.#natsTurn++ % this.#servers.ports.length;
      this.#servers.kill(index);
      this.#timers.later(durationMs, () => {
        this.#servers.startAgain(index);
        this.#awaitWhole(firing);
      });
    } else if (verb === 'kill') {
      leader.member.kill();
      this.#timers.later(durationMs, () => leader.member.startAgain());
    } else if (verb === 'stop') {
      leader.member.stop();
      this.#timers.later(durationMs, () => leader.member.goOn());
    } else {
      for (const link of leader.natsLinks) link.cut();
      this.#timers.later(durationMs, () => leader.natsLinks.forEach((link) => link.mend()));
    }
  }

  #awaitWhole(firing: Firing): void {
    this.#timers.later(WHOLE_LOOK_MS, () => {
      void this.#servers.areWhole().then((areWhole) => {
        if (areWhole) firing.isLasting = false;
        else this.#awaitWhole(firing);
      });
    });
  }

  /** All have ended, or those that have led the run to its end. */
  #checkDone(): void {
    const coordinators = this.#seats.map(({ member }) => member);
    if (coordinators.some(({ isUp }) => isUp)) return;
    for (const member of [...coordinators, ...this.#trainers]) member.retire();
    if (this.#trainers.every(({ isUp }) => !isUp)) return this.#ended.resolve('done');
    this.#timers.later(LEAVE_TIME_MS, () => this.#ended.resolve('done'));
  }
}
