/**
 * A gateway's rules: `advanceGateway(state, event)` gives the next state and the commands for the shell. Pure. What the
 * coordinator gives it is split among its trainers, what they answer is one answer. What it cannot do any more because
 * trainers are gone, it says (the sequences that are not in its contribution), or else it gives up its connection: then
 * it is to the coordinator as a trainer that was lost, and everything is handed out again. See docs/gateways.md.
 */
import { membersOf, shardEqually } from '../../coordinator/core/assignment.ts';
import { byTrainerId, nameSome } from '../../coordinator/core/draft.ts';
import { dealSlots } from '../../coordinator/core/refresh.ts';
import type { FactorJob, Received, Shard } from '../../coordinator/core/state.ts';
import type { CloseReason } from '../../protocol/close-codes.ts';
import type {
  BehindState,
  EvaluationState,
  FactorOrder,
  GatewayEffect,
  GatewayEvent,
  GatewayState,
  GatewayTransition,
  SnapshotState,
  StepState,
} from './gateway-state.ts';

/** Of the time that the coordinator gives, so that what is here arrives before it gives the gateway up. */
const PATIENCE_SHARE = 0.9;

type EventOf<T extends GatewayEvent['type']> = Extract<GatewayEvent, { type: T }>;

/** Where a gateway stands that has stored the state of record `sequence`, and knows no trainer yet. */
export function initialGateway(
  at: Pick<GatewayState, 'sequence' | 'committedStep' | 'hashEvery' | 'nowMs'>,
): GatewayState {
  return {
    ...at,
    trainers: [],
    work: null,
    evaluations: [],
    snapshot: null,
    hashes: null,
    isUp: false,
    toldCapacity: 0,
    nextJob: 1,
  };
}

export function advanceGateway(state: GatewayState, event: GatewayEvent): GatewayTransition {
  const turn = new Turn({ ...state, nowMs: Math.max(state.nowMs, event.nowMs) });
  turn.route(event);
  turn.tellCapacity();
  return turn.transition;
}

/** One event being dealt with. */
class Turn {
  #state: GatewayState;
  readonly #effects: GatewayEffect[] = [];
  readonly #notes: string[] = [];

  constructor(state: GatewayState) {
    this.#state = state;
  }

  get transition(): GatewayTransition {
    const note = this.#notes.join('; ');
    return { state: this.#state, effects: this.#effects, ...(note === '' ? {} : { note }) };
  }

  route(event: GatewayEvent): void {
    switch (event.type) {
      case 'trainerJoined':
        this.#lose(event.trainerId);
        return this.#patch({
          trainers: [
            ...this.#state.trainers,
            { trainerId: event.trainerId, status: 'loading' } as BehindState,
          ].sort(byTrainerId),
        });
      case 'trainerReady':
        return this.#setStatus([event.trainerId], 'ready');
      case 'trainerSeen':
        return;
      case 'trainerLost':
        this.#notes.push(`${event.trainerId} is lost: ${event.reason}`);
        return this.#lose(event.trainerId);
      case 'sketchReceived':
        return this.#takeSketch(event);
      case 'factorReceived':
        return this.#takeFactor(event);
      case 'contributionReceived':
        return this.#takeContribution(event);
      case 'evaluationReceived':
        return this.#takeEvaluation(event);
      case 'stateHashReceived':
        return this.#takeHash(event);
      case 'snapshotReceived':
        return this.#takeSnapshot(event);
      case 'checkpointWritten':
      case 'checkpointFailed':
        return this.#endCheckpoint(event);
      case 'recordStored':
        return this.#storeRecord(event);
      case 'stepAssigned':
        return this.#assign(event);
      case 'sketchesAsked':
        return this.#askSketches(event);
      case 'factorsAsked':
        return this.#askFactors(event);
      case 'evaluationAsked':
        return this.#askEvaluation(event);
      case 'snapshotAsked':
        return this.#askSnapshot(event);
      case 'leaderJoined':
        return this.#patch({ isUp: true, toldCapacity: 0 });
      case 'leaderLost':
        return this.#loseLeader(event.reason);
      case 'ticked':
        return this.#tick();
      default:
        return event satisfies never;
    }
  }

  /** The coordinator shares work out by how many trainers are ready; with none left nothing must be asked of us. */
  tellCapacity(): void {
    const { isUp, toldCapacity } = this.#state;
    const trainers = this.#ready().length;
    if (!isUp || trainers === toldCapacity) return;
    if (trainers === 0) return this.#reconnect('no trainer is ready behind the gateway');
    this.#patch({ toldCapacity: trainers });
    this.#effects.push({ type: 'tellCapacity', trainers });
  }

  // ---- a step ----

  #assign({ step, positions, refreshSlots, deadlineMs }: EventOf<'stepAssigned'>): void {
    this.#dropWork(`step ${step} begins`);
    const members = this.#ready();
    if (members.length === 0) return this.#reconnect(`no trainer is ready for step ${step}`);
    const shards: readonly Shard[] =
      positions === null
        ? members.map((trainerId) => ({ trainerId, positions: [] }))
        : shardEqually(positions, members);
    const patienceMs = Math.floor(PATIENCE_SHARE * deadlineMs);
    const phase = refreshSlots.length > 0 ? 'waiting' : 'collecting';
    this.#enter({ step, shards, phase, round: 0, received: [], orders: [], patienceMs, deadlineMs: null });
    for (const shard of shards) this.#effects.push({ type: 'assignStep', step, ...shard });
    this.#settle();
  }

  #askSketches({ step, round, slots }: EventOf<'sketchesAsked'>): void {
    const { work } = this.#state;
    if (work?.step !== step) return this.#reconnect(`there is no work of step ${step} to sketch`);
    this.#enter({ ...work, phase: 'sketching', round, received: [], orders: [] });
    const trainerIds = membersOf(work.shards);
    this.#effects.push({ type: 'requestSketches', trainerIds, step, round, slots });
  }

  #takeSketch(event: EventOf<'sketchReceived'>): void {
    const { trainerId, step, round, tokens } = event;
    const work = this.#workOf(trainerId, step);
    if (work?.phase !== 'sketching' || work.round !== round || isHere(work, trainerId)) {
      return this.#refuse(event, round);
    }
    this.#patch({ work: withAnswer(work, { trainerId, tokens, lossSum: 0 }) });
    this.#settle();
  }

  #askFactors({ step, round, slots, isFinal }: EventOf<'factorsAsked'>): void {
    const { work } = this.#state;
    if (work?.step !== step) return this.#reconnect(`there is no member of step ${step} to factorise`);
    const jobs = dealSlots(slots, membersOf(work.shards));
    const orders = [...work.orders, { jobs, isFinal, isSent: false }];
    this.#enter({ ...work, phase: 'factorising', round, orders });
    for (const job of jobs) this.#assignFactors(job, isFinal);
    this.#settle();
  }

  #assignFactors({ trainerId, slots }: FactorJob, isFinal: boolean): void {
    const { step, round } = this.#state.work!;
    this.#effects.push({ type: 'assignFactors', trainerId, step, round, slots, isFinal });
  }

  #takeFactor(event: EventOf<'factorReceived'>): void {
    const { trainerId, step, round, slots } = event;
    const work = this.#workOf(trainerId, step);
    if (work?.phase !== 'factorising' || work.round !== round) return this.#refuse(event, round);
    const isOne = (job: FactorJob): boolean => job.trainerId === trainerId && isSameSet(job.slots, slots);
    const orders = work.orders.map((order) => ({
      ...order,
      jobs: order.jobs.map((job) => (isOne(job) ? { ...job, isDone: true } : job)),
    }));
    this.#patch({ work: { ...work, orders } });
    this.#settle();
  }

  #takeContribution(event: EventOf<'contributionReceived'>): void {
    const { trainerId, step, tokens, lossSum, weight } = event;
    const work = this.#workOf(trainerId, step);
    if (work?.phase !== 'collecting' || isHere(work, trainerId)) return this.#refuse(event, Infinity);
    const told = weight === undefined ? {} : { weight };
    this.#patch({ work: withAnswer(work, { trainerId, tokens, lossSum, ...told }) });
    this.#settle();
  }

  /** Sends the answer that is whole. */
  #settle(): void {
    const { work } = this.#state;
    if (work === null) return;
    const { step, round, shards, received, phase } = work;
    if (phase === 'answered') return;
    if (shards.length === 0 && received.length === 0 && this.#ready().length === 0) {
      return this.#reconnect(`no trainer of step ${step} is left`);
    }
    if (phase === 'sketching' && missingFrom(work).length === 0) {
      if (shards.length === 0) return this.#reconnect(`no trainer of step ${step} is left`);
      this.#enter({ ...work, phase: 'waiting' });
      this.#effects.push({ type: 'sendSketches', step, round, received });
    }
    if (phase === 'waiting' && shards.length === 0) this.#reconnect(`no trainer of step ${step} is left`);
    if (phase === 'factorising') this.#settleFactors(work);
    if (phase === 'collecting' && missingFrom(work).length === 0) {
      this.#enter({ ...work, phase: 'answered' });
      const counted = received.filter(({ tokens }) => tokens > 0);
      const used = shards.filter(({ trainerId }) => counted.some((each) => each.trainerId === trainerId));
      this.#effects.push({ type: 'sendContribution', step, received: counted, shards: used });
    }
  }

  #settleFactors(work: StepState): void {
    const { step, round, shards } = work;
    if (shards.length === 0) return this.#reconnect(`no trainer of step ${step} is left`);
    const isDue = ({ jobs, isSent }: FactorOrder): boolean => !isSent && jobs.every(({ isDone }) => isDone);
    const due = work.orders.filter(isDue);
    const orders = work.orders.map((order) => (isDue(order) ? { ...order, isSent: true } : order));
    const phase = orders.every(({ isSent }) => isSent) ? 'waiting' : 'factorising';
    this.#patch({ work: { ...work, orders, phase } });
    for (const { jobs } of due) this.#effects.push({ type: 'sendFactors', step, round, jobs });
  }

  #storeRecord({ sequence, step, kind }: EventOf<'recordStored'>): void {
    this.#patch({ sequence });
    const { work, hashEvery } = this.#state;
    if (kind === 'basis') {
      if (work?.step !== step || work.phase === 'answered') return;
      this.#enter({ ...work, phase: 'collecting', received: [], orders: [] });
      return this.#settle();
    }
    this.#patch({ committedStep: step, work: null });
    if (work !== null) {
      this.#effects.push({ type: 'discardStaged', step: work.step });
      if (work.phase !== 'answered') this.#beLate(work);
    }
    if (hashEvery === 0 || step % hashEvery !== 0) return;
    const expected = this.#state.trainers
      .filter(({ status }) => status !== 'loading')
      .map(({ trainerId }) => trainerId);
    this.#patch({ hashes: { step, expected, told: [], isSent: false } });
  }

  /** The step went on without us. Those who have not answered will, with an empty contribution. */
  #beLate(work: StepState): void {
    const answered = work.phase === 'collecting' ? work.received.map(({ trainerId }) => trainerId) : [];
    const late = membersOf(work.shards).filter((trainerId) => !answered.includes(trainerId));
    this.#setStatus(late, 'lagging');
    this.#notes.push(`step ${work.step} went on without ${nameSome(late)}`);
    // By this the coordinator knows that it can count on us again.
    if (this.#ready().length === 0) return;
    this.#effects.push({ type: 'sendContribution', step: work.step, received: [], shards: [] });
  }

  #tick(): void {
    const { work, nowMs } = this.#state;
    if (work === null || work.deadlineMs === null || nowMs < work.deadlineMs) return;
    const missing =
      work.phase === 'factorising'
        ? membersOf(work.orders.flatMap(({ jobs }) => jobs.filter(({ isDone }) => !isDone)))
        : missingFrom(work);
    // With no answer at all there is nothing to go on with: it is for the coordinator to decide.
    if (missing.length === work.shards.length) return this.#patch({ work: { ...work, deadlineMs: null } });
    this.#notes.push(`step ${work.step} goes on without ${nameSome(missing)}`);
    this.#setStatus(missing, 'lagging');
    for (const trainerId of missing) this.#dropMember(trainerId);
  }

  /** Its part in the step comes back, unless its contribution is here. */
  #dropMember(trainerId: string): void {
    const { work } = this.#state;
    if (work === null || work.phase === 'answered') return;
    if (work.phase === 'collecting' && isHere(work, trainerId)) return;
    const shards = work.shards.filter((shard) => shard.trainerId !== trainerId);
    const heirs = membersOf(shards);
    const orders = work.orders.map((order) => ({
      ...order,
      jobs: order.jobs.flatMap((job) => {
        if (job.trainerId !== trainerId || job.isDone) return [job];
        const [heir] = heirs;
        if (heir === undefined) return [];
        const given = { ...job, trainerId: heir };
        this.#effects.push({
          ...{ type: 'assignFactors', trainerId: heir, step: work.step, round: work.round },
          ...{ slots: job.slots, isFinal: order.isFinal },
        });
        return [given];
      }),
    }));
    this.#patch({ work: { ...work, shards, orders } });
    this.#settle();
  }

  /** An answer that is not wanted: late, or never asked for. */
  #refuse(event: EventOf<'sketchReceived' | 'factorReceived' | 'contributionReceived'>, round: number): void {
    const { trainerId, step, type } = event;
    const { work, committedStep } = this.#state;
    const isMember = this.#workOf(trainerId, step) !== null;
    const isBreach =
      step > committedStep + 1 ||
      (isMember && work!.phase !== 'answered' && (round > work!.round || work!.phase === 'waiting'));
    if (isBreach && !(isMember && isHere(work!, trainerId))) {
      return this.#expel(trainerId, 'UNEXPECTED_MESSAGE', `${type} of step ${step} was not asked for`);
    }
    const reason = step <= committedStep ? 'it is late' : `step ${step} goes on without ${trainerId}`;
    this.#effects.push({ type: 'rejectStep', trainerId, step, reason });
    if (type === 'contributionReceived' && this.#statusOf(trainerId) === 'lagging') {
      this.#setStatus([trainerId], 'ready');
    }
  }

  // ---- evaluations ----

  #askEvaluation({ step, sequences }: EventOf<'evaluationAsked'>): void {
    const members = this.#ready();
    if (members.length === 0) return this.#reconnect('no trainer is ready to evaluate');
    const job = this.#state.nextJob;
    const shards: readonly Shard[] =
      sequences === null
        ? members.map((trainerId) => ({ trainerId, positions: [] }))
        : shardEqually(
            Array.from({ length: sequences }, (_, i) => i),
            members,
          );
    const evaluation = { job, step, shards, received: [], isOwn: sequences === null };
    this.#patch({ evaluations: [...this.#state.evaluations, evaluation], nextJob: job + 1 });
    for (const shard of shards) this.#assignEvaluation(evaluation, shard);
    this.#settleEvaluations();
  }

  #assignEvaluation({ job, step, isOwn }: EvaluationState, { trainerId, positions }: Shard): void {
    const sequences = isOwn ? null : positions;
    this.#effects.push({ type: 'assignEvaluation', trainerId, job, step, sequences });
  }

  /** A trainer answers in the order in which it was asked. */
  #takeEvaluation({ trainerId, step, tokens, lossSum, correct }: EventOf<'evaluationReceived'>): void {
    const isOfIt = (shard: Shard): boolean => shard.trainerId === trainerId;
    const answered = this.#state.evaluations.find(
      (evaluation) => evaluation.step === step && evaluation.shards.some(isOfIt),
    );
    if (answered === undefined) return void this.#notes.push(`an evaluation of ${trainerId} is not awaited`);
    const done = answered.shards.find(isOfIt);
    const part = { trainerId, tokens, lossSum, ...(correct === undefined ? {} : { correct }) };
    const next = {
      ...answered,
      shards: answered.shards.filter((shard) => shard !== done),
      received: [...answered.received, part].sort(byTrainerId),
    };
    const evaluations = this.#state.evaluations.map((each) => (each === answered ? next : each));
    this.#patch({ evaluations });
    this.#settleEvaluations();
  }

  #settleEvaluations(): void {
    for (const { job, step, shards, received } of this.#state.evaluations) {
      if (shards.length > 0) continue;
      this.#effects.push({ type: 'sendEvaluation', job, step, parts: received });
      this.#patch({ evaluations: this.#state.evaluations.filter((each) => each.job !== job) });
    }
  }

  /** What a lost trainer was measuring is measured by another; what it has itself, by nobody. */
  #handOnEvaluations(trainerId: string): void {
    const [heir] = this.#ready();
    const evaluations = this.#state.evaluations.map((evaluation) => {
      const shards = evaluation.shards.flatMap((shard): readonly Shard[] => {
        if (shard.trainerId !== trainerId) return [shard];
        if (heir === undefined || evaluation.isOwn) return [];
        const given = { trainerId: heir, positions: shard.positions };
        this.#assignEvaluation(evaluation, given);
        return [given];
      });
      return { ...evaluation, shards };
    });
    this.#patch({ evaluations });
    if (heir === undefined && evaluations.length > 0) {
      return this.#reconnect('no trainer is left to evaluate');
    }
    this.#settleEvaluations();
  }

  // ---- hashes and checkpoints ----

  #takeHash({ trainerId, step, weightsSha256 }: EventOf<'stateHashReceived'>): void {
    const { hashes } = this.#state;
    if (hashes?.step !== step || !hashes.expected.includes(trainerId)) return;
    if (hashes.told.some((each) => each.trainerId === trainerId)) return;
    const told = [...hashes.told, { trainerId, weightsSha256 }].sort(byTrainerId);
    this.#patch({ hashes: { ...hashes, told } });
    this.#judgeHashes();
  }

  /** Once all have told theirs, the hash of most of them is the gateway's; who has another joins again without state. */
  #judgeHashes(): void {
    const { hashes } = this.#state;
    if (hashes === null || hashes.told.length === 0) return;
    if (hashes.told.length < hashes.expected.length) return;
    const votes = new Map<string, number>();
    for (const { weightsSha256: hash } of hashes.told) votes.set(hash, (votes.get(hash) ?? 0) + 1);
    const [[weightsSha256]] = [...votes].toSorted(([, a], [, b]) => b - a) as [[string, number]];
    if (!hashes.isSent) this.#effects.push({ type: 'sendHash', step: hashes.step, weightsSha256 });
    this.#patch({ hashes: { ...hashes, isSent: true } });
    this.#endLocalSnapshot();
    for (const { trainerId, weightsSha256: other } of hashes.told) {
      if (other === weightsSha256) continue;
      const text = `the weights after step ${hashes.step} differ: ${other.slice(0, 8)} here, ${weightsSha256.slice(0, 8)} on others`;
      this.#expel(trainerId, 'STATE_DIVERGED', text);
    }
  }

  /** The gateway keeps the checkpoint itself, for those who join, whether or not the coordinator wants it from here. */
  #askSnapshot({ step, sequence, isLocalOnly }: EventOf<'snapshotAsked'>): void {
    const [trainerId] = this.#ready();
    if (trainerId === undefined || sequence !== this.#state.sequence) {
      return this.#reconnect(`no trainer can send the state of record ${sequence}`);
    }
    const { snapshot } = this.#state;
    if (snapshot !== null) this.#giveUpSnapshot(snapshot);
    const next = { step, sequence, trainerId, isAskedFor: !isLocalOnly, isOwed: true };
    const { hashes } = this.#state;
    if (hashes?.step !== step) {
      this.#patch({ hashes: { step, expected: [trainerId], told: [], isSent: false } });
    }
    this.#patch({ snapshot: next });
    this.#effects.push({ type: 'requestSnapshot', trainerId, step, sequence });
    this.#endLocalSnapshot();
  }

  /** The coordinator wanted only the hash, and has it. */
  #endLocalSnapshot(): void {
    const { snapshot, hashes } = this.#state;
    if (snapshot === null || snapshot.isAskedFor || !snapshot.isOwed) return;
    if (hashes?.step !== snapshot.step || !hashes.isSent) return;
    this.#endSnapshot(snapshot);
  }

  #endSnapshot(snapshot: SnapshotState): void {
    this.#patch({ snapshot: { ...snapshot, isOwed: false } });
    const { step, sequence } = snapshot;
    this.#effects.push({ type: 'endSnapshot', step, sequence });
  }

  #giveUpSnapshot(snapshot: SnapshotState): void {
    if (snapshot.trainerId !== null) {
      this.#effects.push({ type: 'abandonCheckpoint', step: snapshot.step });
    }
    if (snapshot.isOwed) this.#endSnapshot(snapshot);
    this.#patch({ snapshot: null });
  }

  #takeSnapshot({ trainerId, step }: EventOf<'snapshotReceived'>): void {
    const { snapshot } = this.#state;
    if (snapshot?.trainerId !== trainerId || snapshot.step !== step) return;
    this.#patch({ snapshot: { ...snapshot, trainerId: null } });
    this.#effects.push({ type: 'writeCheckpoint', step, trainerId });
  }

  #endCheckpoint({ type, step }: EventOf<'checkpointWritten' | 'checkpointFailed'>): void {
    const { snapshot } = this.#state;
    if (snapshot?.step !== step) return;
    this.#patch({ snapshot: null });
    if (!snapshot.isOwed) return;
    const { sequence } = snapshot;
    if (type === 'checkpointWritten' && snapshot.isAskedFor) {
      return void this.#effects.push({ type: 'sendSnapshot', step, sequence });
    }
    if (snapshot.isAskedFor) return this.#reconnect(`the state of step ${step} could not be kept`);
    this.#effects.push({ type: 'endSnapshot', step, sequence });
  }

  // ---- who is there ----

  #lose(trainerId: string): void {
    const { trainers, snapshot, hashes } = this.#state;
    if (!trainers.some((trainer) => trainer.trainerId === trainerId)) return;
    this.#patch({ trainers: trainers.filter((trainer) => trainer.trainerId !== trainerId) });
    if (hashes !== null) {
      const isOther = (id: string): boolean => id !== trainerId;
      const told = hashes.told.filter((each) => isOther(each.trainerId));
      this.#patch({ hashes: { ...hashes, expected: hashes.expected.filter(isOther), told } });
      this.#judgeHashes();
    }
    if (snapshot?.trainerId === trainerId) {
      if (snapshot.isAskedFor && snapshot.isOwed) {
        this.#reconnect(`${trainerId} was sending the state of step ${snapshot.step}`);
      }
      const current = this.#state.snapshot;
      if (current !== null) this.#giveUpSnapshot(current);
    }
    this.#dropMember(trainerId);
    this.#handOnEvaluations(trainerId);
  }

  #expel(trainerId: string, reason: CloseReason, text: string): void {
    this.#notes.push(`${trainerId} is disconnected: ${text}`);
    this.#effects.push({ type: 'closeConnection', trainerId, reason, text });
    this.#lose(trainerId);
  }

  #reconnect(text: string): void {
    if (!this.#state.isUp) return;
    this.#effects.push({ type: 'reconnect', text });
    this.#notes.push(`the connection to the coordinator is given up: ${text}`);
    this.#loseLeader(text);
  }

  #loseLeader(reason: string): void {
    this.#patch({ isUp: false, toldCapacity: 0 });
    const { snapshot } = this.#state;
    if (snapshot !== null) this.#patch({ snapshot: { ...snapshot, isAskedFor: false, isOwed: false } });
    this.#dropWork(reason);
  }

  /**
   * What is under way is void. Who is still at it begins anew, with the state that it has: an answer to what was void
   * might come later and be taken for one to what is asked then.
   */
  #dropWork(reason: string): void {
    const { work, evaluations } = this.#state;
    this.#patch({ work: null, evaluations: [] });
    const busy = new Set(evaluations.flatMap(({ shards }) => membersOf(shards)));
    if (work !== null) {
      this.#effects.push({ type: 'discardStaged', step: work.step });
      const isDone = (trainerId: string): boolean =>
        work.phase === 'answered' || (work.phase === 'collecting' && isHere(work, trainerId));
      for (const trainerId of membersOf(work.shards)) if (!isDone(trainerId)) busy.add(trainerId);
    }
    for (const trainerId of busy) {
      this.#expel(trainerId, 'COORDINATOR_STOPPING', `its work is void: ${reason}`);
    }
  }

  #setStatus(trainerIds: readonly string[], status: BehindState['status']): void {
    const trainers = this.#state.trainers.map((trainer) =>
      trainerIds.includes(trainer.trainerId) ? { ...trainer, status } : trainer,
    );
    this.#patch({ trainers });
  }

  #statusOf(trainerId: string): BehindState['status'] | null {
    return this.#state.trainers.find((trainer) => trainer.trainerId === trainerId)?.status ?? null;
  }

  /** Ascending. */
  #ready(): readonly string[] {
    return this.#state.trainers.filter(({ status }) => status === 'ready').map(({ trainerId }) => trainerId);
  }

  /** The step, if it is the one under way and the trainer has a part in it. */
  #workOf(trainerId: string, step: number): StepState | null {
    const { work } = this.#state;
    const isMember = work?.step === step && work.shards.some((shard) => shard.trainerId === trainerId);
    return isMember ? work : null;
  }

  /** Its time begins now. */
  #enter(work: StepState): void {
    const isAwaiting = work.phase !== 'waiting' && work.phase !== 'answered';
    const hasLimit = isAwaiting && work.patienceMs > 0;
    const deadlineMs = hasLimit ? this.#state.nowMs + work.patienceMs : null;
    this.#patch({ work: { ...work, deadlineMs } });
  }

  #patch(fields: Partial<GatewayState>): void {
    this.#state = { ...this.#state, ...fields };
  }
}

function withAnswer(work: StepState, answer: Received): StepState {
  return { ...work, received: [...work.received, answer].sort(byTrainerId) };
}

function isHere({ received }: StepState, trainerId: string): boolean {
  return received.some((each) => each.trainerId === trainerId);
}

function missingFrom(work: StepState): readonly string[] {
  return membersOf(work.shards).filter((trainerId) => !isHere(work, trainerId));
}

function isSameSet(a: readonly number[], b: readonly number[]): boolean {
  const inA = new Set(a);
  return a.length === b.length && b.every((slot) => inA.has(slot));
}
