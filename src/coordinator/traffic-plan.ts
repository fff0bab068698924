/**
 * What a run will send and keep, before it starts: bytes of a trainer in the mean step of the run, on the socket,
 * by what they are for and by how slots travel, and memory. Exact for fixed ranks and gaps but for what is sent by
 * the clock (heartbeats), joining, checkpoints and evaluations. Adaptive ranks and gaps count as configured,
 * which is the most they come to; so do row-sparse tensors, as if no token came twice. Pure.
 */
import type { RunConfig } from '../config/schema.ts';
import { displacementSlot, innerState } from '../galore/displacement.ts';
import { isFlushed, payloadShape, sizeOf, stepKinds, type Policy, type Slot } from '../galore/slot.ts';
import { localState } from '../galore/feedback/local-state.ts';
import { ruleState, weightState, type StateSpec } from '../galore/optimizer/rule-state.ts';
import { stateBytes, stateTensors } from '../galore/state-table.ts';
import { firstRound } from '../galore/projection/sketch.ts';
import { encodeEnvelope } from '../protocol/envelope.ts';
import { MAX_PART_BYTES } from '../protocol/limits.ts';
import type { Message, StreamName } from '../protocol/messages.ts';
import { splitIntoParts, type ExpectedTensor } from '../protocol/parts.ts';
import { kindsOfSteps, payloadSize, type SlotSizes } from '../protocol/slot-sizes.ts';
import { socketBytes } from '../protocol/socket-bytes.ts';
import { stepSequences, type RunShape } from '../run-shape.ts';
import { refreshCounts } from './core/refresh-schedule.ts';
import { refreshedSlots, schedulePlanOf } from './plan.ts';

/** Bytes of a step in both directions. */
export interface PlannedBytes {
  readonly up: number;
  readonly down: number;
}

/** All that slots of one policy come to. */
export interface PlannedPolicy extends PlannedBytes {
  readonly policy: Policy;
  readonly tensors: number;
  readonly parameters: number;
  /** Least and greatest rank; null: they have none. */
  readonly ranks: readonly [number, number] | null;
}

export interface TrafficPlan {
  readonly parameters: number;
  readonly steps: number;
  /** Optimizer steps in a step; 1 without local steps. */
  readonly localSteps: number;
  readonly trainers: number;
  /** Contributions up and updates down; refreshes are apart. */
  readonly policies: readonly PlannedPolicy[];
  /** Of one trainer in a step, the mean over the run. */
  readonly contribution: number;
  readonly update: number;
  readonly refresh: PlannedBytes;
  readonly data: number;
  readonly total: PlannedBytes;
  /** Dense f32 each way: four bytes a parameter in every optimizer step. */
  readonly denseBytes: number;
  /** How many times less than dense f32. */
  readonly ratio: PlannedBytes;
  /** Kept by a trainer besides gradients and what it computes with. */
  readonly trainerMemory: {
    /** With local steps the working copy and the displacements, too. */
    readonly weights: number;
    readonly optimizer: number;
    /** Bases, and the factors of power slots. */
    readonly bases: number;
    readonly feedback: number;
    readonly total: number;
  };
  /** The contributions and the record of a step, at most. */
  readonly coordinatorStaging: number;
}

/** @param trainers that share a step */
export function trafficPlan(config: RunConfig, shape: RunShape, trainers: number): TrafficPlan {
  const { slots, sizes } = shape;
  const stepTokens = stepSequences(config) * config.seq_len;
  const shares = sizes.map((size) => ofShare(size, stepTokens, trainers));
  const { steps } = config;
  const localSteps = config.local_steps.count;
  const counts = new Map(
    refreshedSlots(shape).map((slot, k) => [slot, refreshCountsOf(config, shape)[k] ?? 0] as const),
  );
  const flushes = (slot: Slot): number =>
    isFlushed(slot) ? Math.max(0, (counts.get(slot.index) ?? 0) - 1) : 0;
  const up = shares.map((size) => meanPayload(size, 'contribution', steps, flushes(size.slot) / steps));
  const down = sizes.map((size) => meanPayload(size, 'update', steps, 0));
  const contribution = sum(up) + messageBytes(SAMPLE_CONTRIBUTION, true);
  const update = sum(down) + messageBytes(sampleCommit(config, trainers), false);
  const refresh = refreshBytes(shape, counts, trainers, steps);
  const data = messageBytes(sampleAssignment(config, trainers), false);
  const parameters = sum(slots.map(({ shape: extents }) => sizeOf(extents)));
  const denseBytes = 4 * parameters * localSteps;
  const total = { up: contribution + refresh.up, down: update + refresh.down + data };
  return {
    parameters,
    steps,
    localSteps,
    trainers,
    policies: policiesOf(slots, up, down),
    contribution,
    update,
    refresh,
    data,
    total,
    denseBytes,
    ratio: { up: denseBytes / total.up, down: denseBytes / total.down },
    trainerMemory: memoryOf(slots),
    coordinatorStaging: stagingOf(sizes, shares, trainers),
  };
}

function refreshCountsOf(config: RunConfig, shape: RunShape): readonly number[] {
  return refreshCounts({ ...schedulePlanOf(config), projectedSlots: refreshedSlots(shape) }, config.steps);
}

/** @param flushShare how much of the run are steps in which the slot is flushed, of whichever kind */
function meanPayload(
  sizes: SlotSizes,
  stream: 'contribution' | 'update',
  steps: number,
  flushShare: number,
): number {
  const mean = (isFlush: boolean): number =>
    sum(
      stepKinds(sizes.slot, steps).map(
        ({ step, share }) =>
          share * tensorBytes(payloadSize(sizes, stream, step, isFlush), stream, sizes.slot.index),
      ),
    );
  return flushShare === 0 ? mean(false) : (1 - flushShare) * mean(false) + flushShare * mean(true);
}

/**
 * A round: sketches up from every trainer, their sum down to one of them, its factor up; then the factor down
 * to all, the last one as a basis. Bases made from the seed cost a Commit.
 */
function refreshBytes(
  { sizes, refresh }: RunShape,
  counts: ReadonlyMap<number, number>,
  trainers: number,
  steps: number,
): PlannedBytes {
  const total = { up: 0, down: 0 };
  for (const [index, count] of counts) {
    const { sketches, basis } = sizes[index]!;
    for (const [position, sketch] of sketches.entries()) {
      // With a warm start the first round is made once, when there is no basis yet.
      const times = position + 1 < firstRound(refresh, true) ? Math.min(1, count) : count;
      const isLast = position === sketches.length - 1;
      const factor = isLast ? basis : sketch;
      if (factor === null) continue;
      const up = tensorBytes(sketch, 'sketch', index) + tensorBytes(factor, 'factor', index) / trainers;
      const down =
        tensorBytes(sketch, 'sketchSum', index) / trainers +
        tensorBytes(factor, isLast ? 'basis' : 'factor', index);
      total.up += (times * up) / steps;
      total.down += (times * down) / steps;
    }
  }
  return total;
}

function policiesOf(slots: readonly Slot[], up: readonly number[], down: readonly number[]): PlannedPolicy[] {
  const names = [...new Set(slots.map(({ policy }) => policy))];
  return names.map((policy) => {
    const mine = slots.filter((slot) => slot.policy === policy);
    const ranks = mine.flatMap(({ rank }) => rank ?? []);
    return {
      policy,
      tensors: mine.length,
      parameters: sum(mine.map(({ shape }) => sizeOf(shape))),
      ranks: ranks.length === 0 ? null : [Math.min(...ranks), Math.max(...ranks)],
      up: sum(mine.map(({ index }) => up[index] ?? 0)),
      down: sum(mine.map(({ index }) => down[index] ?? 0)),
    };
  });
}

function memoryOf(slots: readonly Slot[]): TrafficPlan['trainerMemory'] {
  const parts = { weights: 0, optimizer: 0, bases: 0, feedback: 0 };
  const codes = new Set(slots.flatMap((slot) => weightState(slot).map(({ kind }) => kind)));
  for (const { kind, slot, totalBytes } of stateTensors(slots)) {
    // An int8 weight is its codes; the f32 numbers are made when they are needed.
    if (kind === 'weights') parts.weights += slot.weights === undefined ? totalBytes : 0;
    else if (codes.has(kind)) parts.weights += totalBytes;
    else if (kind === 'basis' || kind === 'p' || kind === 'w') parts.bases += totalBytes;
    else parts.optimizer += totalBytes;
  }
  const bytesOf = (specs: readonly StateSpec[]): number =>
    sum(specs.map(({ dtype, shape }) => stateBytes(dtype, shape)));
  for (const slot of slots) {
    const inner = bytesOf(innerState(slot));
    // What begins anew after every exchange is there during a step all the same.
    parts.optimizer += slot.isInnerReset === true ? bytesOf(ruleState(displacementSlot(slot))) : inner;
    parts.feedback += bytesOf(localState(slot)) - inner;
    if (slot.inner !== undefined) parts.weights += 4 * (sizeOf(slot.shape) + sizeOf(payloadShape(slot, 1)));
  }
  return { ...parts, total: parts.weights + parts.optimizer + parts.bases + parts.feedback };
}

/** @param shares of the trainers, `ofShare` */
function stagingOf(sizes: readonly SlotSizes[], shares: readonly SlotSizes[], trainers: number): number {
  const payload = (table: readonly SlotSizes[], stream: 'contribution' | 'update', step: number): number =>
    sum(table.map((size) => payloadSize(size, stream, step).totalBytes));
  return Math.max(
    ...kindsOfSteps(sizes).map(
      (step) => trainers * payload(shares, 'contribution', step) + payload(sizes, 'update', step),
    ),
  );
}

/** Sizes of one of several trainers: its tokens touch no more rows than there are of them. */
export function ofShare(sizes: SlotSizes, stepTokens: number, trainers: number): SlotSizes {
  const { slot } = sizes;
  if (slot.policy !== 'row-sparse') return sizes;
  return { ...sizes, slot: { ...slot, mostRows: Math.min(slot.mostRows, Math.ceil(stepTokens / trainers)) } };
}

/** On the socket, in Parts. */
export function tensorBytes(
  { codec, totalBytes }: ExpectedTensor,
  stream: StreamName,
  tensor: number,
): number {
  if (totalBytes === 0) return 0;
  const isUp = stream === 'contribution' || stream === 'sketch' || stream === 'factor';
  const round = stream === 'sketch' || stream === 'sketchSum' || stream === 'factor' ? 1 : 0;
  const header = { stream, step: TYPICAL_NUMBER, round, tensor, codec };
  // All pieces but the last are full; their headers differ by the digits of the offset.
  const full = Math.floor(totalBytes / MAX_PART_BYTES);
  const rest = totalBytes - full * MAX_PART_BYTES;
  const [whole] = full === 0 ? [] : splitIntoParts(header, ZEROS);
  const [last] = rest === 0 ? [] : splitIntoParts(header, ZEROS.subarray(0, rest));
  return (
    full * (whole === undefined ? 0 : messageBytes({ ...whole, totalBytes }, isUp)) +
    (last === undefined ? 0 : messageBytes({ ...last, totalBytes, offset: full * MAX_PART_BYTES }, isUp))
  );
}

const ZEROS = new Uint8Array(MAX_PART_BYTES);
/** Steps and positions of this size take two bytes, as most do. */
const TYPICAL_NUMBER = 1000;
const TYPICAL_DIGEST = new Uint8Array(32);

/** What ends a contribution. */
export const SAMPLE_CONTRIBUTION: Message = {
  kind: 'contribution',
  step: TYPICAL_NUMBER,
  tokens: TYPICAL_NUMBER,
  lossSum: 1.5,
  checksum: 0xffffffff,
};

function shareOf(config: RunConfig, trainers: number): number[] {
  return Array.from(
    { length: Math.max(1, Math.round(stepSequences(config) / trainers)) },
    () => TYPICAL_NUMBER,
  );
}

/** Of one of so many trainers with equal shares. */
export function sampleAssignment(config: RunConfig, trainers: number): Message {
  const positions = shareOf(config, trainers);
  const length = config.seq_len + 1;
  return {
    kind: 'stepAssignment',
    step: TYPICAL_NUMBER,
    learningRate: 0.01,
    seed: config.seed,
    sequences: {
      positions,
      length,
      tokens: new Int32Array(positions.length * length),
      mask: new Uint8Array(0),
    },
    localExamples: 0,
    refreshSlots: [],
    flushSlots: [],
    deadlineMs: config.coordinator.step_deadline_ms,
  };
}

/** What ends an update: it names all members and their sequences. */
export function sampleCommit(config: RunConfig, trainers: number): Message {
  const member = { trainerId: 'trainer-1', tokens: TYPICAL_NUMBER, positions: shareOf(config, trainers) };
  return {
    kind: 'commit',
    sequence: TYPICAL_NUMBER,
    step: TYPICAL_NUMBER,
    previousDigest: TYPICAL_DIGEST,
    digest: TYPICAL_DIGEST,
    record: {
      type: 'update',
      learningRate: 0.01,
      tokens: TYPICAL_NUMBER,
      lossSum: 1.5,
      members: Array.from({ length: trainers }, () => member),
      cursor: { next: TYPICAL_NUMBER, returned: [] },
      gradientNorm: 1.5,
      slotNorms: [],
    },
  };
}

/** On the socket. */
export function messageBytes(message: Message, isUp: boolean): number {
  return socketBytes(encodeEnvelope(message).length, isUp);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
