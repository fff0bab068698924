/**
 * The bulk side of a step: what trainers send is staged, checked and summed here, and becomes records.
 * The core says when; this knows nothing of phases, sockets or disk.
 */
import type { RunConfig } from '../config/schema.ts';
import { ProtocolError } from '../errors.ts';
import { aggregationOf, type Aggregation } from '../galore/aggregate/rules.ts';
import { codecOfPayload } from '../galore/codec/codec.ts';
import type { CodecName } from '../galore/codec/tensor-codec.ts';
import { isGenerated } from '../galore/method.ts';
import { restartsOf } from '../galore/method.ts';
import { learningRate } from '../galore/schedule.ts';
import { hasBasis, payloadNumbers, travels, withRanks, type Slot } from '../galore/slot.ts';
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import type {
  ContributionMessage,
  FactorMessage,
  Member,
  PartMessage,
  SketchMessage,
} from '../protocol/messages.ts';
import { splitIntoParts } from '../protocol/parts.ts';
import { derive } from '../random.ts';
import { MAX_MEMBERS } from '../protocol/limits.ts';
import { rankOfBasis, sizesAt, type Ranks } from '../protocol/slot-sizes.ts';
import { stepTargets, targetsOfSequence, type RunShape } from '../run-shape.ts';
import { aggregationNotice, type AggregationNotice } from './aggregation-notice.ts';
import { chooseTrainers, onlyOf } from './choose-trainers.ts';
import type { Effect, FactorJob, Received } from './core/state.ts';
import { EarlySums, type ExpectedMember } from './early-sums.ts';
import { outlierPlanOf } from './plan.ts';
import { sealBases, sealGenerated, type NewBasis, type RecordPlace, type SealedRecord } from './records.ts';
import { RefreshSums, type Offer } from './refresh-sums.ts';
import type { SpillFile } from './spill-file.ts';
import { Staging, type StagedStream } from './staging.ts';
import { summedMembers } from './summed-members.ts';
import {
  comparedSlots,
  contributionNorm,
  encodeSlotSum,
  sealUpdate,
  slotOrder,
  UpdateSums,
  type SumOptions,
  type WeightedTensors,
} from './update-sums.ts';
import { isDeclared, sharesOf, weightFault, weightOf } from './weights.ts';

const MIB = 1024 * 1024;

type EffectOf<T extends Effect['type']> = Extract<Effect, { type: T }>;

/** A job of a trainer: the core's slots, and those of them that were sent to be factorised. */
interface Job {
  readonly slots: readonly number[];
  readonly active: readonly number[];
}

/** Where the Parts of an update go before its record is sealed. */
export interface EarlyUpdate {
  /** The place of the step's update record. */
  place(step: number): RecordPlace;
  /** The next Parts of it, behind `first` others. */
  send(first: number, frames: readonly Uint8Array[]): void;
  /** What was sent of the step's update is void. */
  withdraw(step: number): void;
}

/** A tensor that a gateway has made of those of its trainers. */
export interface SummedTensor {
  readonly tensor: number;
  readonly codec: CodecName;
  readonly bytes: Uint8Array;
}

/** What a member of the step was assigned. */
interface Share {
  readonly positions: readonly number[];
  /** Tokens it can honestly declare, at most. */
  readonly mostTokens: number;
  /** Those whose labels count; null until its sequences are read. */
  expectedTokens: number | null;
  /** Of a gateway: how many trainers it would share them among; null: it is none. */
  readonly capacity: number | null;
}

export class StepDesk {
  readonly #config: RunConfig;
  readonly #shape: RunShape;
  /** The slots at the ranks of now. */
  #slots: readonly Slot[];
  readonly #staging: Staging;
  readonly #refresh: RefreshSums;
  readonly #allSlots: readonly number[];
  readonly #aggregation: Aggregation;
  #notice: AggregationNotice | null = null;
  #step = 0;
  #round = 0;
  /** Slots of the refresh under way. */
  #refreshSlots: readonly number[] = [];
  /** What each factorising trainer was given this round; one may get the job of another that is lost, too. */
  readonly #jobs = new Map<string, Job[]>();
  /** By trainer. */
  readonly #shares = new Map<string, Share>();
  readonly #earlyUpdate: EarlyUpdate | null;
  #early: EarlySums | null = null;
  /** The step's basis record comes before its update. */
  #awaitsBases = false;
  /** Of each gateway that has contributed, whose contributions it has summed. */
  readonly #summed = new Map<string, readonly Member[]>();
  /** Slots whose contributions are f32 in this step. */
  #flushSlots: ReadonlySet<number> = new Set();

  /**
   * @param probeSeed a number the trainers do not know
   * @param earlyUpdate null: nothing is summed before the core says so
   * @param spillFile for contributions beyond coordinator.staging_memory; null: all stay in memory
   */
  constructor(
    config: RunConfig,
    shape: RunShape,
    probeSeed: number,
    earlyUpdate: EarlyUpdate | null = null,
    spillFile: SpillFile | null = null,
  ) {
    this.#config = config;
    this.#aggregation = aggregationOf(config.coordinator.aggregation);
    // What a contribution is multiplied by is known when all of all of them is here, and so is who is chosen; or when
    // it says what it weighs.
    const isScaled = config.optimizer.max_grad_norm !== undefined || this.#judgesNorms;
    const isLate =
      isScaled || this.#aggregation.by === 'distance' || isDeclared(config.local_steps.weighting);
    this.#earlyUpdate = isLate ? null : earlyUpdate;
    this.#shape = shape;
    this.#slots = shape.slots;
    const maxBytes = config.coordinator.staging_memory * MIB;
    const overflow = spillFile === null ? null : { maxBytes, file: spillFile };
    this.#staging = new Staging(shape.slots, shape.sizes, shape.refresh.rounds, overflow, (trainerId) =>
      this.#isAssigned(trainerId),
    );
    this.#refresh = new RefreshSums(shape.slots, shape.sizes, shape.refresh, probeSeed);
    this.#allSlots = shape.slots.filter(travels).map((slot) => slot.index);
  }

  /** The ranks that refreshes have chosen so far; slots without an entry have the configured one. */
  setRanks(ranks: Ranks): void {
    const { slots, sizes } = this.#shape;
    this.#slots = withRanks(slots, ranks);
    this.#staging.follow(this.#slots, sizesAt(sizes, ranks));
  }

  /** Numbers that a contribution to a step has at most, over all slots, and the mean rank of those with a basis (0: none has). */
  payloadOf(step: number): { readonly numbers: number; readonly meanRank: number } {
    const numbers = this.#slots.reduce((sum, slot) => sum + payloadNumbers(slot, step), 0);
    const ranks = this.#slots.filter(hasBasis).map(({ rank }) => rank);
    return { numbers, meanRank: ranks.reduce((sum, rank) => sum + rank, 0) / Math.max(1, ranks.length) };
  }

  /** The learning rate of step `step` (from 1). */
  learningRate(step: number): number {
    return learningRate(this.#config.optimizer, step - 1, this.#config.steps, restartsOf(this.#config));
  }

  /** A trainer is about to be given sequences of a step in which these slots are flushed. */
  assigned(
    { trainerId, step, positions, localExamples = 0, refreshSlots, capacity }: EffectOf<'assignStep'>,
    flushSlots: readonly number[] = [],
  ): void {
    if (step !== this.#step) {
      this.#shares.clear();
      this.#summed.clear();
      this.#openWindow(step, 0);
    }
    this.#awaitsBases = refreshSlots.length > 0;
    this.#staging.flush(flushSlots);
    this.#flushSlots = new Set(flushSlots);
    // How many trainers a gateway has by now it says with its contribution.
    const mostTokens = this.#config.data.local
      ? (capacity === undefined ? 1 : MAX_MEMBERS) *
        stepTargets({ ...this.#config, batch_size: localExamples })
      : positions.length * targetsOfSequence(this.#config);
    this.#shares.set(trainerId, { positions, mostTokens, expectedTokens: null, capacity: capacity ?? null });
  }

  /** The trainer is now sent the sequences at `positions`, and this is how many labels in them count. */
  expect(trainerId: string, positions: readonly number[], tokens: number): void {
    const share = this.#shares.get(trainerId);
    if (share?.positions !== positions) return;
    share.expectedTokens = tokens;
    this.#sumEarly();
  }

  /**
   * Starts a refresh round; returns the slots to ask for and, from round 2 on, the frames of the
   * factors that come before the request.
   */
  beginRound({ step, round, slots, jobs }: EffectOf<'requestSketches'>): {
    readonly slots: readonly number[];
    readonly frames: readonly Uint8Array[];
  } {
    const frames: Uint8Array[] = [];
    this.#refresh.settle(jobs);
    const isFirst = jobs.length === 0; // round 1, or 2 with a warm start
    if (!isFirst) {
      for (const index of this.#refresh.active(slots)) {
        frames.push(
          ...this.#partFrames('factor', step, round - 1, index, this.#refresh.factors.get(index)?.bytes),
        );
      }
    }
    this.#openWindow(step, round);
    this.#refresh.begin(step, round, isFirst);
    this.#refreshSlots = slots;
    this.#jobs.clear();
    return { slots: this.#refresh.active(slots), frames };
  }

  /** Sums the sketches of the round. */
  sumSketches({ weights }: EffectOf<'sumSketches'>): void {
    const slots = this.#refresh.active(this.#refreshSlots);
    this.#refresh.sum(this.#refreshSlots, this.#weighted(weights, 'sketch', slots), this.#aggregation);
  }

  // ---- of a gateway, which sums for the coordinator ----

  /** The sums of sketches, as the gateway sends them. */
  *sketchSums(): Generator<SummedTensor> {
    for (const tensor of this.#refresh.active(this.#refreshSlots)) {
      const bytes = this.#refresh.sumOf(tensor);
      if (bytes !== null) yield { tensor, codec: 'f32', bytes };
    }
  }

  /** The sums of contributions of these members, in the codecs in which a trainer sends its own. */
  *sumContributions(gatewayId: string, step: number, received: readonly Received[]): Generator<SummedTensor> {
    const contributions = this.#weighted(received, 'contribution', this.#allSlots);
    for (const tensor of slotOrder(this.#slots, contributions)) {
      const slot = this.#slots[tensor]!;
      const configured = codecOfPayload(slot, step, this.#shape.codecs[tensor]!.contribution);
      const codec = this.#flushSlots.has(tensor) ? 'f32' : configured;
      const key = derive(this.#config.seed, 'gateway', gatewayId, step, tensor);
      const allocate = (byteLength: number): Uint8Array => new Uint8Array(byteLength);
      const { bytes } = encodeSlotSum(slot, step, contributions, { codec, key, allocate });
      yield { tensor, codec, bytes };
    }
  }

  /** The coordinator's sum of a slot, that jobs of this gateway's trainers are about. */
  takeSum(tensor: number, sum: Float32Array): void {
    this.#refresh.takeSum(tensor, sum);
  }

  /** What the jobs have made of the sums. */
  settleFactors(jobs: readonly FactorJob[]): {
    readonly tensors: readonly SummedTensor[];
    readonly zeroSlots: readonly number[];
    readonly similarities: readonly number[];
  } {
    this.#refresh.settle(jobs);
    const asked = new Set(jobs.flatMap(({ slots }) => slots));
    const made = [...this.#refresh.factors].filter(([slot]) => asked.has(slot)).sort(([a], [b]) => a - b);
    const tells = this.#config.method.refresh.lazy_threshold !== undefined;
    return {
      tensors: made.map(([tensor, { bytes }]) => ({ tensor, codec: 'f32', bytes })),
      zeroSlots: jobs.flatMap(({ slots }) => slots.filter((slot) => !this.#refresh.factors.has(slot))),
      similarities: tells ? made.map(([, { similarity }]) => similarity) : [],
    };
  }

  // ---- of both ----

  /** Notes who factorises what; returns the slots and the frames of their sums. */
  beginJob({ trainerId, step, round, slots }: EffectOf<'assignFactors'>): {
    readonly slots: readonly number[];
    readonly frames: readonly Uint8Array[];
  } {
    const active = this.#refresh.active(slots);
    this.#jobs.set(trainerId, [...(this.#jobs.get(trainerId) ?? []), { slots, active }]);
    const frames = active.flatMap((index) => [
      ...this.#partFrames('sketchSum', step, round, index, this.#refresh.sumOf(index) ?? undefined),
    ]);
    return { slots: active, frames };
  }

  /** Takes a part of a sketch, factor or contribution. @throws ProtocolError */
  acceptPart(trainerId: string, part: PartMessage): void {
    this.#staging.accept(trainerId, part);
    if (part.stream === 'contribution') this.#sumEarly();
  }

  /**
   * A trainer says its sketches are complete.
   * @returns their norm over all slots, if the run judges by it
   * @throws ProtocolError if they are not
   */
  acceptSketch(trainerId: string, message: SketchMessage): number | undefined {
    if (!this.#isCurrent(message.step, message.round)) return undefined;
    if (message.tokens === 0 || !this.#isAssigned(trainerId)) return undefined;
    this.#checkTokens(trainerId, message.tokens);
    const tensors = this.#staging.take(trainerId, 'sketch', this.#refresh.active(this.#refreshSlots));
    if (!this.#judgesNorms) return undefined;
    return this.#refresh.normOf(this.#refreshSlots, tensors, this.#shareOf(message.tokens));
  }

  /**
   * A trainer says the factors of one of its jobs are complete.
   * @returns the slots of that job; none if the message is late
   * @throws ProtocolError if it has no such job, or its factors are not there, not finite or not orthonormal
   */
  acceptFactor(trainerId: string, message: FactorMessage): readonly number[] {
    const jobs = this.#jobs.get(trainerId);
    if (!this.#isCurrent(message.step, message.round) || jobs === undefined) return [];
    const answered = new Set([...message.slots, ...message.zeroSlots]);
    const job = jobs.find(
      ({ active }) => active.length === answered.size && active.every((slot) => answered.has(slot)),
    );
    if (job === undefined) {
      throw new ProtocolError(
        CLOSE_CODES.UNEXPECTED_MESSAGE.code,
        `factors of slots ${[...answered].join(', ') || '(none)'} in step ${message.step}, round ${message.round}, ` +
          `were not asked for; ${jobs.map(({ active }) => active.join(', ')).join(' and ')} were`,
      );
    }
    const given = job.active.filter((slot) => !message.zeroSlots.includes(slot));
    const tensors = this.#staging.take(trainerId, 'factor', given);
    const similarities = new Map(message.slots.map((slot, i) => [slot, message.similarities[i] ?? -1]));
    const fault = this.#refresh.accept(trainerId, job.active, message.zeroSlots, tensors, similarities);
    if (fault !== null) throw new ProtocolError(CLOSE_CODES.INVALID_CONTRIBUTION.code, fault);
    return job.slots;
  }

  /**
   * A trainer says its contribution is complete.
   * @returns its norm over all slots, if the run judges by it
   * @throws ProtocolError if it is not, or damaged
   */
  acceptContribution(trainerId: string, message: ContributionMessage): number | undefined {
    const { step, tokens } = message;
    if (step !== this.#step || tokens === 0 || !this.#isAssigned(trainerId)) return undefined;
    this.#checkTokens(trainerId, tokens);
    const { weighting } = this.#config.local_steps;
    // A gateway whose trainers all count alike says how many they are.
    const isCounted = message.members !== undefined && weighting === 'equal';
    const fault = isCounted ? null : weightFault(weighting, message.weight);
    if (fault !== null)
      throw new ProtocolError(CLOSE_CODES.INVALID_CONTRIBUTION.code, `step ${step}: ${fault}`);
    const tensors = this.#staging.take(trainerId, 'contribution', this.#allSlots);
    const checksum = this.#staging.checksumOf(trainerId);
    if (checksum !== message.checksum) {
      throw new ProtocolError(
        CLOSE_CODES.INVALID_CONTRIBUTION.code,
        `the contribution of step ${step} has checksum ${checksum}, not ${message.checksum} as declared`,
      );
    }
    if (message.members !== undefined) this.#noteSummed(trainerId, message);
    if (!this.#judgesNorms) return undefined;
    return contributionNorm(this.#slots, step, tensors, this.#shareOf(tokens));
  }

  /** @throws ProtocolError for members that cannot be */
  #noteSummed(gateway: string, message: ContributionMessage): void {
    const { data, local_steps: local } = this.#config;
    if (data.local) this.#checkTokens(gateway, message.tokens, message.members!.length);
    const elsewhere = [...this.#summed].flatMap(([id, members]) => (id === gateway ? [] : members));
    const members = summedMembers(message, {
      gateway,
      positions: data.local ? null : (this.#shares.get(gateway)?.positions ?? []),
      isWeighed: local.weighting !== 'targets',
      others: new Set([...this.#shares.keys(), ...elsewhere.map(({ trainerId }) => trainerId)]),
    });
    if ('fault' in members) {
      throw new ProtocolError(
        CLOSE_CODES.INVALID_CONTRIBUTION.code,
        `step ${message.step}: ${members.fault}`,
      );
    }
    this.#summed.set(gateway, members);
  }

  /** What a contribution counts by, where that is not its tokens. */
  weightOf({ weight, members }: ContributionMessage): Pick<Received, 'weight'> {
    return weightOf(this.#config.local_steps.weighting, weight, members?.length);
  }

  /** The record of the new bases. */
  sealBases(place: RecordPlace, { slots, jobs }: EffectOf<'commitBases'>): SealedRecord {
    if (isGenerated(this.#shape.basis)) return sealGenerated(place, slots);
    this.#refresh.settle(jobs);
    const bases = [...this.#refresh.factors].map(
      ([index, offer]) => [index, this.#newBasis(index, offer)] as const,
    );
    return sealBases(place, slots, new Map(bases));
  }

  /** The record of the summed contributions. */
  sealUpdate(place: RecordPlace, update: Omit<EffectOf<'commitUpdate'>, 'attendance'>): SealedRecord {
    const { step, received, shards, cursor } = update;
    const { method } = this.#config;
    const facts = {
      learningRate: this.learningRate(step),
      received: received.filter(({ tokens }) => tokens > 0),
      shards,
      cursor,
      tellsNorms: method.refresh.converged_ratio !== undefined,
      summed: this.#summed,
    };
    const early = this.#early;
    if (early?.isOf(place.sequence, facts.received) && early.sums.count === this.#allSlots.length) {
      this.#early = null;
      this.#note(facts.received, null);
      return early.sums.seal(facts);
    }
    this.#withdraw();
    const contributions = this.#weighted(received, 'contribution', this.#allSlots);
    const compared = comparedSlots(this.#slots, step, contributions);
    const chosen = chooseTrainers(this.#aggregation, contributions.length, compared);
    this.#note(facts.received, chosen);
    return sealUpdate(place, {
      ...facts,
      ...this.#sumOptions(contributions.length),
      maxGradNorm: this.#config.optimizer.max_grad_norm,
      contributions: chosen === null ? contributions : onlyOf(contributions, chosen),
    });
  }

  /** What the rule made of the members of the newest update; null: they all count by their tokens. */
  get notice(): AggregationNotice | null {
    return this.#notice;
  }

  #note(received: readonly Received[], chosen: readonly number[] | null): void {
    const members = received.map(({ trainerId }) => trainerId);
    this.#notice = aggregationNotice(this.#config.coordinator.aggregation, members, chosen);
  }

  /** Sums what every member has delivered, and sends it ahead of the record. */
  #sumEarly(): void {
    const channel = this.#earlyUpdate;
    if (channel === null || this.#awaitsBases || this.#step === 0) return;
    this.#early ??= this.#beginEarly(channel);
    const first = this.#early?.sums.frames.length ?? 0;
    const frames = this.#early?.advance() ?? [];
    if (frames.length > 0) channel.send(first, frames);
  }

  /** Null as long as a member is not known to have its sequences. */
  #beginEarly(channel: EarlyUpdate): EarlySums | null {
    const shares = [...this.#shares].sort(([a], [b]) => (a < b ? -1 : 1));
    const { weighting } = this.#config.local_steps;
    const members = shares.map(([trainerId, { expectedTokens: tokens, capacity }]) => ({
      trainerId,
      tokens,
      ...weightOf(weighting, undefined, capacity ?? 1),
    }));
    if (!members.every((member): member is ExpectedMember => member.tokens !== null)) return null;
    const counted = members.filter(({ tokens }) => tokens > 0);
    if (counted.length === 0) return null;
    const sums = new UpdateSums(channel.place(this.#step), this.#sumOptions(counted.length));
    return new EarlySums(sums, counted, (trainerId) => this.#staging.take(trainerId, 'contribution', []));
  }

  /** The early sums are void. */
  #withdraw(): void {
    const { sums } = this.#early ?? {};
    this.#early = null;
    if (sums !== undefined && sums.count > 0) this.#earlyUpdate?.withdraw(sums.place.step);
  }

  #sumOptions(members: number): SumOptions {
    const rule = this.#aggregation.by === 'slot' ? this.#aggregation.rule(members) : undefined;
    return { slots: this.#slots, codecs: this.#shape.codecs, seed: this.#config.seed, rule };
  }

  #newBasis(index: number, { bytes, similarity }: Offer): NewBasis {
    const adaptive = this.#shape.sizes[index]?.adaptive;
    return {
      bytes,
      rank: adaptive && rankOfBasis(adaptive, bytes.length),
      similarity: this.#config.method.refresh.lazy_threshold === undefined ? undefined : similarity,
    };
  }

  /** The bases are committed: their sums are not needed any more. */
  refreshCommitted(): void {
    this.#refresh.clear();
    this.#jobs.clear();
    this.#refreshSlots = [];
    this.#awaitsBases = false;
    this.#sumEarly();
  }

  /** The step is committed or was given up. */
  discard(): void {
    this.#withdraw();
    this.#staging.close();
    this.#step = 0;
    this.refreshCommitted();
  }

  /** The trainer's connection is gone: half-sent tensors are void; what it sent whole may still count. */
  forget(trainerId: string): void {
    this.#staging.forgetHalf(trainerId);
    this.#jobs.delete(trainerId);
  }

  get #judgesNorms(): boolean {
    return outlierPlanOf(this.#config) !== null;
  }

  /** Of a whole step, that its tokens are. */
  #shareOf(tokens: number): number {
    return tokens / stepTargets(this.#config);
  }

  /** Those with tokens, each with its share of the sum, in the order given. */
  #weighted(
    received: readonly Received[],
    stream: StagedStream,
    slots: readonly number[],
  ): WeightedTensors[] {
    const counted = received.filter(({ tokens }) => tokens > 0);
    const shares = sharesOf(counted);
    return counted.map(({ trainerId, scale = 1 }, i) => ({
      weight: shares[i]! * scale,
      scale,
      tensors: this.#staging.take(trainerId, stream, slots),
    }));
  }

  *#partFrames(
    stream: 'factor' | 'sketchSum',
    step: number,
    round: number,
    tensor: number,
    bytes: Uint8Array | undefined,
  ): Generator<Uint8Array> {
    if (bytes === undefined) return;
    const header = { stream, step, round, tensor, codec: 'f32' } as const;
    for (const part of splitIntoParts(header, bytes)) yield encodeEnvelope(part);
  }

  #openWindow(step: number, round: number): void {
    this.#step = step;
    this.#round = round;
    this.#staging.open({ step, round });
  }

  #isCurrent(step: number, round: number): boolean {
    return step === this.#step && round === this.#round;
  }

  /** Not so for one that is late with an earlier try of the same step; the core answers it. */
  #isAssigned(trainerId: string): boolean {
    return this.#shares.has(trainerId);
  }

  #checkTokens(trainerId: string, tokens: number, sites: number | null = null): void {
    const given = this.#shares.get(trainerId)?.mostTokens ?? 0;
    const most = sites === null ? given : sites * stepTargets(this.#config);
    if (tokens > most) {
      throw new ProtocolError(
        CLOSE_CODES.INVALID_CONTRIBUTION.code,
        `${tokens} tokens are declared for step ${this.#step} but only ${most} were assigned`,
      );
    }
  }
}
