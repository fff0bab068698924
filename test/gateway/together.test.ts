/**
 * The coordinator's core and those of two gateways over a network of made-up delays, in virtual time: trainers and gateways
 * are lost at random moments, and every sequence must be used exactly once. Nothing here waits.
 */
import test from 'ava';
import { advance, initialState } from '../../src/coordinator/core/advance.ts';
import type { Effect, Event, RunState, Shard } from '../../src/coordinator/core/state.ts';
import { advanceGateway, initialGateway } from '../../src/gateway/core/advance-gateway.ts';
import type { GatewayEffect, GatewayEvent, GatewayState } from '../../src/gateway/core/gateway-state.ts';
import { derive, randomUniform } from '../../src/random.ts';
import { FRESH, PLAN } from '../coordinator/core/plan.ts';

type Without<E> = E extends unknown ? Omit<E, 'nowMs'> : never;
const STEPS = 60;

interface Gate {
  readonly id: string;
  state: GatewayState;
  /** Of its connection to the coordinator; even: it has none. */
  epoch: number;
  /** Trainers that have a part in its last step. */
  given: number;
  /** By trainer: its connection, and the step it holds work for. */
  readonly trainers: Map<string, { epoch: number; step: number }>;
  /** What it has sent for a step last. */
  readonly sent: Map<number, readonly Shard[]>;
}

class Together {
  readonly #key;
  #dice = 0;
  /** That was committed last. */
  #record: { readonly step: number; readonly kind: 'basis' | 'update' } = { step: 0, kind: 'update' };
  #nowMs = 0;
  readonly #queue: { atMs: number; run: () => void }[] = [];
  readonly gates: readonly Gate[];
  leader: RunState;
  isOver = false;
  readonly used: number[] = [];
  readonly committed: number[] = [];
  losses = 0;
  /** Contributions without some of the sequences. */
  partial = 0;
  /** Connections that the coordinator closed for what came over them. */
  readonly breaches: string[] = [];

  constructor(seed: number) {
    this.#key = derive(seed, 'together');
    this.leader = initialState(
      {
        ...PLAN,
        ...{ totalSteps: STEPS, batchSequences: 7, startTrainers: 6, minTrainers: 1, stepDeadlineMs: 20_000 },
        ...{ projectedSlots: [0, 1, 2], refreshRounds: 1, updateProjGap: 5, evaluationSequences: 0 },
        ...{ checkpointEvery: 0, hashEvery: 0, heartbeatTimeoutMs: 1e9 },
      },
      FRESH,
    );
    this.gates = ['g1', 'g2'].map((id) => ({
      ...{ id, state: this.#fresh(), epoch: 0, given: 0, sent: new Map<number, readonly Shard[]>() },
      trainers: new Map(['a', 'b', 'c'].map((name) => [`${id}${name}`, { epoch: 0, step: 0 }])),
    }));
  }

  run(): void {
    for (const gate of this.gates) {
      this.#connect(gate);
      for (const id of gate.trainers.keys()) this.#join(gate, id);
    }
    this.#later(500, () => this.#harm());
    for (let events = 0; !this.isOver; events++) {
      if (events > 200_000)
        throw new Error(
          `the run hangs in step ${this.leader.step + 1}: ${JSON.stringify(this.leader.phase)}`,
        );
      this.#queue.sort((a, b) => a.atMs - b.atMs);
      const next = this.#queue.shift();
      // Time goes on for those who wait.
      if (next === undefined || next.atMs > this.#nowMs + 200) {
        this.#nowMs += 200;
        if (next !== undefined) this.#queue.push(next);
        this.#tellLeader({ type: 'ticked' });
        for (const gate of this.gates) this.#tellGate(gate, { type: 'ticked' });
        continue;
      }
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.run();
    }
  }

  #fresh(): GatewayState {
    const { sequence = 0, step = 0 } = this.leader ?? {};
    return initialGateway({ sequence, committedStep: step, hashEvery: 0, nowMs: this.#nowMs });
  }

  #roll(): number {
    return randomUniform(this.#key, this.#dice++);
  }

  #later(delayMs: number, run: () => void): void {
    this.#queue.push({ atMs: this.#nowMs + delayMs, run });
  }

  /** Now and then somebody is lost. */
  #harm(): void {
    this.#later(200 + 1500 * this.#roll(), () => this.#harm());
    const gate = this.gates[this.#roll() < 0.5 ? 0 : 1]!;
    this.losses++;
    if (this.#roll() < 0.3) return this.#kill(gate);
    const ids = [...gate.trainers.keys()];
    this.#drop(gate, ids[Math.floor(this.#roll() * ids.length)]!, true);
  }

  #kill(gate: Gate): void {
    this.#cut(gate);
    for (const id of gate.trainers.keys()) this.#drop(gate, id, false);
    gate.state = this.#fresh();
    this.#connect(gate);
  }

  #drop(gate: Gate, id: string, isTold: boolean): void {
    const trainer = gate.trainers.get(id)!;
    if (trainer.epoch % 2 === 0) return;
    trainer.epoch++;
    trainer.step = 0;
    if (isTold) this.#tellGate(gate, { type: 'trainerLost', trainerId: id, reason: 'cut' });
    this.#join(gate, id);
  }

  #join(gate: Gate, id: string): void {
    this.#later(100 + 800 * this.#roll(), () => {
      const trainer = gate.trainers.get(id)!;
      if (trainer.epoch % 2 === 1) return;
      trainer.epoch++;
      this.#tellGate(gate, { type: 'trainerJoined', trainerId: id });
      this.#fromTrainer(gate, id, 50, () => ({ type: 'trainerReady', trainerId: id }));
    });
  }

  #fromTrainer(gate: Gate, id: string, delayMs: number, fact: () => Without<GatewayEvent> | null): void {
    const trainer = gate.trainers.get(id)!;
    const { epoch } = trainer;
    this.#later(delayMs * (0.5 + this.#roll()), () => {
      const told = trainer.epoch === epoch ? fact() : null;
      if (told !== null) this.#tellGate(gate, told);
    });
  }

  // ---- the long link ----

  #connect(gate: Gate): void {
    this.#later(100 + 700 * this.#roll(), () => {
      if (gate.epoch % 2 === 1) return;
      gate.epoch++;
      this.#tellLeader({ type: 'trainerJoined', trainerId: gate.id });
      // What it lacks of the records comes at once.
      const { sequence, step } = this.leader;
      if (gate.state.sequence < sequence) {
        this.#tellGate(gate, { type: 'recordStored', sequence, step, kind: 'update' });
      }
      this.#tellGate(gate, { type: 'leaderJoined' });
    });
  }

  #cut(gate: Gate): void {
    if (gate.epoch % 2 === 0) return;
    gate.epoch++;
    this.#tellLeader({ type: 'trainerLost', trainerId: gate.id, reason: 'cut' });
  }

  /** In order: each message takes as long as the others. */
  #up(gate: Gate, fact: Without<Event>): void {
    const { epoch } = gate;
    this.#later(20, () => {
      if (gate.epoch === epoch) this.#tellLeader(fact);
    });
  }

  #down(id: string, fact: Without<GatewayEvent>): void {
    const gate = this.gates.find((each) => each.id === id)!;
    const { epoch } = gate;
    if (epoch % 2 === 0) return;
    this.#later(20, () => {
      if (gate.epoch === epoch) this.#tellGate(gate, fact);
    });
  }

  // ---- the coordinator ----

  #tellLeader(fact: Without<Event>): void {
    const { state, effects } = advance(this.leader, { ...fact, nowMs: this.#nowMs } as Event);
    this.leader = state;
    for (const effect of effects) this.#performOfLeader(effect);
  }

  #performOfLeader(effect: Effect): void {
    switch (effect.type) {
      case 'assignStep': {
        const { step, positions, refreshSlots, waitMs: deadlineMs } = effect;
        return this.#down(effect.trainerId, {
          type: 'stepAssigned',
          step,
          positions,
          refreshSlots,
          deadlineMs,
        });
      }
      case 'requestSketches': {
        const { step, round, slots } = effect;
        return effect.trainerIds.forEach((id) =>
          this.#down(id, { type: 'sketchesAsked', step, round, slots }),
        );
      }
      case 'assignFactors': {
        const { step, round, slots, isFinal } = effect;
        return this.#down(effect.trainerId, { type: 'factorsAsked', step, round, slots, isFinal });
      }
      case 'commitBases':
      case 'commitUpdate': {
        const kind = effect.type === 'commitBases' ? 'basis' : 'update';
        const { step } = effect;
        if (effect.type === 'commitUpdate') {
          for (const { trainerId, positions } of effect.shards) {
            const sent = this.gates.find(({ id }) => id === trainerId)!.sent.get(step) ?? [];
            const summed = sent.flatMap((shard) => shard.positions).toSorted((a, b) => a - b);
            if (summed.join() !== positions.toSorted((a, b) => a - b).join()) {
              throw new Error(
                `step ${step}: ${trainerId} has summed ${summed.join()}, not ${positions.join()}`,
              );
            }
            this.used.push(...positions);
          }
          this.committed.push(step);
        }
        const sequence = this.leader.sequence + 1;
        this.#record = { step, kind };
        return this.#later(5, () => this.#tellLeader({ type: 'recordCommitted', step, kind, sequence }));
      }
      case 'announceRecord': {
        const { sequence } = effect;
        for (const { id } of this.gates) this.#down(id, { type: 'recordStored', sequence, ...this.#record });
        return;
      }
      case 'closeConnection': {
        this.breaches.push(`${effect.reason}: ${effect.text}`);
        const gate = this.gates.find(({ id }) => id === effect.trainerId)!;
        gate.epoch += gate.epoch % 2;
        this.#tellGate(gate, { type: 'leaderLost', reason: effect.text });
        return this.#connect(gate);
      }
      case 'requestSnapshot':
        return this.#later(1, () =>
          this.#tellLeader({ type: 'snapshotReceived', trainerId: effect.trainerId, step: effect.step }),
        );
      case 'writeCheckpoint':
        return this.#later(1, () => this.#tellLeader({ type: 'checkpointWritten', step: effect.step }));
      case 'finishRun':
        this.isOver = true;
        return;
      default:
        return;
    }
  }

  // ---- a gateway ----

  #tellGate(gate: Gate, fact: Without<GatewayEvent>): void {
    const { state, effects } = advanceGateway(gate.state, { ...fact, nowMs: this.#nowMs } as GatewayEvent);
    gate.state = state;
    for (const effect of effects) this.#performOfGate(gate, effect);
    if (fact.type === 'recordStored') this.#trainersApply(gate, fact);
    if (gate.state.toldCapacity > 0 && gate.epoch % 2 === 1) {
      this.#up(gate, { type: 'trainerReady', trainerId: gate.id, sequence: gate.state.sequence });
    }
  }

  /** With the bases those who have work contribute; with the update they leave it. */
  #trainersApply(
    gate: Gate,
    { step, kind }: { readonly step: number; readonly kind: 'basis' | 'update' },
  ): void {
    for (const [id, trainer] of gate.trainers) {
      if (trainer.step !== step || trainer.epoch % 2 === 0) continue;
      if (kind === 'basis') this.#contribute(gate, id, step);
    }
  }

  #contribute(gate: Gate, trainerId: string, step: number): void {
    this.#fromTrainer(gate, trainerId, 60, () => {
      const trainer = gate.trainers.get(trainerId)!;
      const tokens = trainer.step === step ? 4 : 0;
      trainer.step = 0;
      return { type: 'contributionReceived', trainerId, step, tokens, lossSum: tokens };
    });
  }

  #performOfGate(gate: Gate, effect: GatewayEffect): void {
    switch (effect.type) {
      case 'assignStep': {
        const { trainerId, step } = effect;
        gate.given = gate.state.work?.shards.length ?? 0;
        gate.trainers.get(trainerId)!.step = step;
        const isRefresh = gate.state.work?.phase === 'waiting';
        return isRefresh ? undefined : this.#contribute(gate, trainerId, step);
      }
      case 'requestSketches': {
        const { step, round } = effect;
        return effect.trainerIds.forEach((trainerId) =>
          this.#fromTrainer(gate, trainerId, 60, () => ({
            type: 'sketchReceived',
            trainerId,
            step,
            round,
            tokens: 4,
          })),
        );
      }
      case 'assignFactors': {
        const { trainerId, step, round, slots } = effect;
        return this.#fromTrainer(gate, trainerId, 30, () => ({
          type: 'factorReceived',
          trainerId,
          step,
          round,
          slots,
        }));
      }
      case 'closeConnection':
        return this.#drop(gate, effect.trainerId, false);
      case 'tellCapacity':
        return this.#up(gate, { type: 'capacityTold', trainerId: gate.id, trainers: effect.trainers });
      case 'sendSketches': {
        const { step, round, received } = effect;
        return this.#up(gate, {
          type: 'sketchReceived',
          trainerId: gate.id,
          step,
          round,
          tokens: 4 * received.length,
        });
      }
      case 'sendFactors': {
        const { step, round, jobs } = effect;
        const slots = jobs.flatMap((job) => job.slots);
        return this.#up(gate, { type: 'factorReceived', trainerId: gate.id, step, round, slots });
      }
      case 'sendContribution': {
        const { step, received, shards } = effect;
        if (received.length > 0) gate.sent.set(step, shards);
        if (gate.state.work !== null && received.length < gate.given) this.partial++;
        const tokens = 4 * received.length;
        const used = shards.flatMap(({ positions }) => positions);
        const fact = {
          type: 'contributionReceived',
          trainerId: gate.id,
          step,
          tokens,
          lossSum: tokens,
        } as const;
        return this.#up(gate, received.length === 0 ? fact : { ...fact, used });
      }
      case 'reconnect':
        this.#cut(gate);
        return this.#connect(gate);
      default:
        return;
    }
  }
}

test('whoever is lost, and whenever: the run ends, and every sequence is used exactly once', (t) => {
  let [losses, partial] = [0, 0];
  for (let seed = 1; seed <= 40; seed++) {
    const world = new Together(seed);
    world.run();
    losses += world.losses;
    partial += world.partial;
    t.deepEqual(world.breaches, [], `seed ${seed}`);
    t.deepEqual(
      world.committed,
      Array.from({ length: STEPS }, (_, i) => i + 1),
      `seed ${seed}`,
    );
    const { next, returned } = world.leader.cursor;
    const accounted = [...world.used, ...returned].sort((a, b) => a - b);
    t.deepEqual(
      accounted,
      Array.from({ length: next }, (_, i) => i),
      `seed ${seed}`,
    );
  }
  t.log(`${losses} losses in 40 runs, ${partial} contributions without some of the sequences`);
  t.true(losses > 400 && partial > 40);
});
