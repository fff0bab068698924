/**
 * Tensors to Parts and back. Pure. A tensor's bytes travel in pieces of at most 1 MiB in ascending
 * offset; the assembler allocates nothing before what comes is what was expected.
 */
import { protocolError } from './checks.ts';
import { MAX_PART_BYTES } from './limits.ts';
import type { PartCodec, PartMessage, StreamName } from './messages.ts';

/** Which tensor of which stream. */
export interface TensorPlace {
  readonly stream: StreamName;
  readonly step: number;
  readonly round: number;
  readonly tensor: number;
}

/** Which tensor of which stream some bytes are. */
export interface TensorHeader extends TensorPlace {
  readonly codec: PartCodec;
}

/** A tensor that has arrived whole. `bytes` owns its buffer (offset 0): it can be viewed as floats and transferred. */
export interface AssembledTensor extends TensorHeader {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The form and length a tensor must have. */
export interface ExpectedTensor {
  readonly codec: PartCodec;
  readonly totalBytes: number;
}

/** A tensor that is of no use any more, such as one of a step that is over: its parts are dropped. */
export interface IgnoredTensor {
  readonly ignore: string;
}

/** What to do with a tensor that begins; a string says why it is refused, which is a ProtocolError. */
export type PartVerdict = ExpectedTensor | IgnoredTensor | string;

/**
 * Asked once for every tensor that begins, and for each further part of an ignored one. `totalBytes` is what
 * the part says: where several lengths are right, the verdict is of the one that is meant.
 */
export type ExpectPart = (place: TensorPlace, totalBytes: number) => PartVerdict;

/** An array of this length with a buffer of its own; every byte of it will be written. */
export type AllocateBytes = (byteLength: number) => Uint8Array<ArrayBuffer>;

interface OpenTensor {
  readonly header: TensorHeader;
  readonly bytes: Uint8Array<ArrayBuffer>;
  filledBytes: number;
}

/** The pieces of a tensor, in order. Payloads are views of `bytes`, which must not be empty. */
export function* splitIntoParts(header: TensorHeader, bytes: Uint8Array): Generator<PartMessage> {
  const { stream, step, round, tensor, codec } = header;
  const totalBytes = bytes.length;
  if (totalBytes === 0) throw new RangeError(`tensor ${tensor} of stream ${stream} has no bytes`);
  for (let offset = 0; offset < totalBytes; offset += MAX_PART_BYTES) {
    const payload = bytes.subarray(offset, offset + MAX_PART_BYTES);
    yield { kind: 'part', stream, step, round, tensor, codec, offset, totalBytes, payload };
  }
}

/**
 * Puts the Parts of one connection together. Streams may interleave; the tensors of one stream follow
 * each other. It does not know which tensors have come before: duplicates are the caller's to see.
 */
export class PartAssembler {
  readonly #expect: ExpectPart;
  readonly #allocate: AllocateBytes;
  readonly #open = new Map<StreamName, OpenTensor>();
  #bytesHeld = 0;

  /** @param allocate where tensors are put together; by default each gets new memory */
  constructor(expect: ExpectPart, allocate: AllocateBytes = (byteLength) => new Uint8Array(byteLength)) {
    this.#expect = expect;
    this.#allocate = allocate;
  }

  /** Bytes allocated for tensors that are not complete yet. */
  get bytesHeld(): number {
    return this.#bytesHeld;
  }

  /**
   * Takes the next part of its stream; returns the tensor once it is complete, otherwise null.
   * @throws ProtocolError UNEXPECTED_MESSAGE if it is refused or out of order, MALFORMED_MESSAGE if it
   * does not have the form or the length expected
   */
  accept(part: PartMessage): AssembledTensor | null {
    const open = this.#open.get(part.stream) ?? this.#begin(part);
    if (open === null) return null;
    const { header, bytes } = open;
    if (!isSameTensor(header, part) || part.totalBytes !== bytes.length || part.offset !== open.filledBytes) {
      throw protocolError(
        'UNEXPECTED_MESSAGE',
        `${describe(part)} at byte ${part.offset} of ${part.totalBytes}; ` +
          `the next part is of ${describe(header)} at byte ${open.filledBytes} of ${bytes.length}`,
      );
    }
    if (part.payload.length > bytes.length - open.filledBytes) {
      throw protocolError('MALFORMED_MESSAGE', `${describe(part)} goes on after its ${bytes.length} bytes`);
    }
    bytes.set(part.payload, open.filledBytes);
    open.filledBytes += part.payload.length;
    if (open.filledBytes < bytes.length) return null;
    this.#drop(part.stream, open);
    return { ...header, bytes };
  }

  /** Drops half-received tensors: all, or those that `predicate` picks. */
  reset(predicate: (header: TensorHeader) => boolean = () => true): void {
    for (const [stream, open] of this.#open) if (predicate(open.header)) this.#drop(stream, open);
  }

  /** The tensor that this part begins; null if it is ignored. */
  #begin(part: PartMessage): OpenTensor | null {
    const { stream, step, round, tensor, codec, totalBytes } = part;
    const verdict = this.#expect({ stream, step, round, tensor }, totalBytes);
    if (typeof verdict === 'string')
      throw protocolError('UNEXPECTED_MESSAGE', `${describe(part)}: ${verdict}`);
    if ('ignore' in verdict) return null;
    if (codec !== verdict.codec || totalBytes !== verdict.totalBytes) {
      throw protocolError(
        'MALFORMED_MESSAGE',
        `${describe(part)} is ${totalBytes} bytes of ${codec}; expected: ${verdict.totalBytes} bytes of ${verdict.codec}`,
      );
    }
    if (part.offset !== 0) {
      throw protocolError('UNEXPECTED_MESSAGE', `${describe(part)} begins at byte ${part.offset}, not at 0`);
    }
    const open = {
      header: { stream, step, round, tensor, codec },
      bytes: this.#allocate(totalBytes),
      filledBytes: 0,
    };
    this.#open.set(stream, open);
    this.#bytesHeld += totalBytes;
    return open;
  }

  #drop(stream: StreamName, open: OpenTensor): void {
    this.#open.delete(stream);
    this.#bytesHeld -= open.bytes.length;
  }
}

function isSameTensor(a: TensorHeader, b: TensorHeader): boolean {
  return a.step === b.step && a.round === b.round && a.tensor === b.tensor && a.codec === b.codec;
}

function describe({ stream, step, round, tensor }: TensorHeader): string {
  return `tensor ${tensor} of stream ${stream}, step ${step}${round === 0 ? '' : `, round ${round}`}`;
}
