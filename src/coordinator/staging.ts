/**
 * What trainers have sent for the step under way: sketches, factors and contributions, as encoded
 * bytes, until the core says what to do with them. Checks sizes before anything is kept.
 */
import { ProtocolError } from '../errors.ts';
import { codecFor } from '../galore/codec/codec.ts';
import { checkRows } from '../galore/rows.ts';
import { tensorLength, type Slot } from '../galore/slot.ts';
import { BufferPool } from '../protocol/buffer-pool.ts';
import { CLOSE_CODES } from '../protocol/close-codes.ts';
import { crc32c } from '../protocol/crc32c.ts';
import type { PartCodec, PartMessage, StreamName } from '../protocol/messages.ts';
import {
  PartAssembler,
  type AssembledTensor,
  type ExpectedTensor,
  type PartVerdict,
  type TensorPlace,
} from '../protocol/parts.ts';
import { basisSize, payloadOfLength, type SlotSizes } from '../protocol/slot-sizes.ts';
import type { SpillFile } from './spill-file.ts';

/** One tensor as it arrived. */
export interface StagedTensor {
  readonly codec: PartCodec;
  readonly bytes: Uint8Array;
}

/** The step that trainers may send for, and the round of its refresh (0: none). */
export interface StagingWindow {
  readonly step: number;
  readonly round: number;
}

/** Streams that are staged. */
export type StagedStream = 'contribution' | 'sketch' | 'factor';

interface TrainerStage {
  readonly assembler: PartAssembler;
  readonly tensors: Record<StagedStream, Map<number, StagedTensor>>;
  /** The opening of the window in which the tensor that is half there began. */
  readonly begun: Record<StagedStream, number>;
  /** CRC-32C over the payloads of the contribution so far. */
  checksum: number;
}

export class Staging {
  #slots: readonly Slot[];
  #sizes: readonly SlotSizes[];
  readonly #rounds: number;
  readonly #overflow: { readonly maxBytes: number; readonly file: SpillFile } | null;
  readonly #isMember: (trainerId: string) => boolean;
  readonly #trainers = new Map<string, TrainerStage>();
  /** Buffers of the contributions of the step before. */
  readonly #pool = new BufferPool();
  #window: StagingWindow = { step: 0, round: 0 };
  /** Slots whose contribution comes as f32 in this step. */
  #flushSlots: ReadonlySet<number> = new Set();
  #isOpen = false;
  /** Of whole contributions, in memory. */
  readonly #inMemory = new Set<Uint8Array>();
  #bytesInMemory = 0;
  /** Numbers of the openings: of the step, for contributions, and of the round, for the rest. */
  #stepOpening = 0;
  #roundOpening = 0;

  /**
   * @param rounds of a refresh
   * @param overflow where contributions go when those in memory have come to `maxBytes`; null: nowhere
   * @param isMember whose tensors are kept: those of others, who may be any number in the course of a step, are not
   */
  constructor(
    slots: readonly Slot[],
    sizes: readonly SlotSizes[],
    rounds: number,
    overflow: { readonly maxBytes: number; readonly file: SpillFile } | null = null,
    isMember: (trainerId: string) => boolean = () => true,
  ) {
    this.#slots = slots;
    this.#sizes = sizes;
    this.#rounds = rounds;
    this.#overflow = overflow;
    this.#isMember = isMember;
  }

  /**
   * The ranks of some slots have changed: what comes from now on has these sizes, and what a trainer sent
   * of a contribution before it could know them does not count.
   */
  follow(slots: readonly Slot[], sizes: readonly SlotSizes[]): void {
    this.#slots = slots;
    this.#sizes = sizes;
    for (const { tensors } of this.#trainers.values()) {
      for (const [tensor, staged] of tensors.contribution) {
        if (!this.#hasPayloadSize(tensor, staged)) tensors.contribution.delete(tensor);
      }
    }
  }

  /** These slots are flushed in the step under way. */
  flush(slots: readonly number[]): void {
    this.#flushSlots = new Set(slots);
  }

  /** Opens the window for a step or the next round of its refresh; what was staged for another goes. */
  open(window: StagingWindow): void {
    const isNewStep = !this.#isOpen || window.step !== this.#window.step;
    if (isNewStep) this.#reuseContributions();
    for (const stage of this.#trainers.values()) {
      if (isNewStep) forgetTensors(stage);
      stage.tensors.sketch.clear();
      stage.tensors.factor.clear();
    }
    this.#roundOpening++;
    if (isNewStep) this.#stepOpening = this.#roundOpening;
    this.#window = window;
    this.#isOpen = true;
  }

  /**
   * Closes the window: the step is committed or was given up. Parts of it that still come are dropped. What
   * `take` returned of it is void.
   */
  close(): void {
    this.#reuseContributions();
    for (const [trainerId, stage] of this.#trainers) {
      forgetTensors(stage);
      if (stage.assembler.bytesHeld === 0) this.#trainers.delete(trainerId);
    }
    this.#isOpen = false;
  }

  /** Forgets tensors that are half there: the rest will not come on another connection. */
  forgetHalf(trainerId: string): void {
    this.#trainers.get(trainerId)?.assembler.reset();
  }

  /**
   * Takes a part of stream sketch, factor or contribution. Parts for an older step or round are late,
   * not wrong: they are dropped.
   * @throws ProtocolError when it does not fit what the step expects
   */
  accept(trainerId: string, part: PartMessage): void {
    const stream = stagedStream(part.stream);
    const stage = this.#stageOf(trainerId);
    const complete = stage.assembler.accept(part);
    // What began before the window was opened (again) only has its rest received.
    const isCurrent = this.#isOpen && stage.begun[stream] === this.#openingOf(stream);
    if (stream === 'contribution' && isCurrent && part.step === this.#window.step) {
      stage.checksum = crc32c(part.payload, stage.checksum);
    }
    if (complete === null || !isCurrent) return;
    if (stream === 'contribution' && !this.#hasPayloadSize(part.tensor, complete)) return;
    this.#checkNumbers(complete);
    stage.tensors[stream].set(part.tensor, stream === 'contribution' ? this.#place(complete) : complete);
  }

  /** In memory, or in the file if there is too much in memory. */
  #place(tensor: StagedTensor): StagedTensor {
    const { bytes } = tensor;
    const overflow = this.#overflow;
    if (overflow !== null && this.#bytesInMemory + bytes.length > overflow.maxBytes) {
      const spilled = overflow.file.put(tensor);
      if (spilled !== null) {
        this.#pool.give([bytes], this.#pool.bytesHeld + bytes.length);
        return spilled;
      }
    }
    this.#inMemory.add(bytes);
    this.#bytesInMemory += bytes.length;
    return tensor;
  }

  /**
   * The tensors a trainer has sent of one stream, which must be at least those of `slots`.
   * @throws ProtocolError naming the first slot that is missing
   */
  take(trainerId: string, stream: StagedStream, slots: readonly number[]): ReadonlyMap<number, StagedTensor> {
    const tensors = this.#trainers.get(trainerId)?.tensors[stream] ?? new Map<number, StagedTensor>();
    const missing = slots.find((slot) => !tensors.has(slot));
    if (missing !== undefined) {
      const name = this.#slots[missing]?.name ?? 'unknown';
      throw new ProtocolError(
        CLOSE_CODES.INVALID_CONTRIBUTION.code,
        `the ${stream} of step ${this.#window.step} lacks slot ${missing} (${name})`,
      );
    }
    return tensors;
  }

  /** CRC-32C over the payloads of the trainer's contribution so far. */
  checksumOf(trainerId: string): number {
    return this.#trainers.get(trainerId)?.checksum ?? 0;
  }

  /** Bytes of the contributions that are here whole, in memory and in the file. */
  get bytesStaged(): { readonly memory: number; readonly file: number } {
    return { memory: this.#bytesInMemory, file: this.#overflow?.file.bytes ?? 0 };
  }

  /** Bytes of buffers that wait for the next step: at most what contributions had in the last step with any. */
  get bytesPooled(): number {
    return this.#pool.bytesHeld;
  }

  /** To be called before the contributions are forgotten. */
  #reuseContributions(): void {
    this.#overflow?.file.clear();
    if (this.#bytesInMemory === 0) return;
    this.#pool.give(this.#inMemory, this.#bytesInMemory);
    this.#inMemory.clear();
    this.#bytesInMemory = 0;
  }

  #hasPayloadSize(tensor: number, { codec, bytes }: StagedTensor): boolean {
    const sizes = this.#sizes[tensor];
    if (sizes === undefined) return false;
    const payload = this.#contributionSize(sizes, bytes.length);
    if (typeof payload === 'string') return false;
    return codec === payload.codec && bytes.length === payload.totalBytes;
  }

  #contributionSize(sizes: SlotSizes, totalBytes: number): ExpectedTensor | string {
    const isFlushed = this.#flushSlots.has(sizes.slot.index);
    return payloadOfLength(sizes, 'contribution', this.#window.step, totalBytes, isFlushed);
  }

  /** Here the sender is still known; once summed, a number that is not finite has no owner. */
  #checkNumbers({ stream, codec, bytes, tensor }: AssembledTensor): void {
    const slot = this.#slots[tensor];
    if (stream === 'contribution' && slot?.policy === 'row-sparse') {
      return checkRows(slot, codecFor(codec).name, bytes);
    }
    const count =
      codec === 'f32' || slot === undefined ? bytes.length / 4 : tensorLength(slot, this.#window.step);
    codecFor(codec).check(bytes, count);
  }

  #openingOf(stream: StagedStream): number {
    return stream === 'contribution' ? this.#stepOpening : this.#roundOpening;
  }

  #stageOf(trainerId: string): TrainerStage {
    const existing = this.#trainers.get(trainerId);
    if (existing !== undefined) return existing;
    const stage: TrainerStage = {
      assembler: new PartAssembler(
        (place, totalBytes) => this.#expect(trainerId, place, totalBytes),
        (byteLength) => this.#pool.take(byteLength),
      ),
      tensors: { contribution: new Map(), sketch: new Map(), factor: new Map() },
      begun: { contribution: 0, sketch: 0, factor: 0 },
      checksum: 0,
    };
    this.#trainers.set(trainerId, stage);
    return stage;
  }

  #expect(trainerId: string, place: TensorPlace, totalBytes: number): PartVerdict {
    const { step, round, tensor } = place;
    const stream = stagedStream(place.stream);
    const window = this.#window;
    const isRefresh = stream !== 'contribution';
    const isOver = step < window.step || (step === window.step && !this.#isOpen);
    if (isOver || (isRefresh && step === window.step && round < window.round)) {
      return { ignore: `step ${step} round ${round} is over` };
    }
    if (step > window.step) return `step ${step} is not under way (step ${window.step} is)`;
    if (isRefresh && round > window.round)
      return `round ${round} is not under way (round ${window.round} is)`;
    const sizes = this.#sizes[tensor];
    if (sizes === undefined) return `there is no slot ${tensor} (there are ${this.#sizes.length})`;
    if (!this.#isMember(trainerId)) return { ignore: `${trainerId} is not in step ${step}` };
    const stage = this.#stageOf(trainerId);
    if (stage.tensors[stream].has(tensor)) return `slot ${tensor} was sent before`;
    stage.begun[stream] = this.#openingOf(stream);
    if (stream === 'contribution') return this.#contributionSize(sizes, totalBytes);
    if (stream === 'factor' && round === this.#rounds) return basisSize(sizes, totalBytes);
    return (
      sizes.sketches[round - 1] ?? `slot ${tensor} (${this.#slots[tensor]?.name ?? ''}) is not projected`
    );
  }
}

/** What was received whole; a tensor that is half there stays, its rest still comes. */
function forgetTensors(stage: TrainerStage): void {
  stage.tensors.contribution.clear();
  stage.tensors.sketch.clear();
  stage.tensors.factor.clear();
  stage.checksum = 0;
}

function stagedStream(stream: StreamName): StagedStream {
  if (stream === 'contribution' || stream === 'sketch' || stream === 'factor') return stream;
  throw new ProtocolError(
    CLOSE_CODES.UNEXPECTED_MESSAGE.code,
    `a trainer does not send stream ${stream} here`,
  );
}
