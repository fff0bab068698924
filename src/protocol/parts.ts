/**
 * Tensors to Parts and back. Pure. A tensor's bytes travel in pieces of at most 1 MiB in ascending
 * offset; the assembler allocates nothing before what comes is what was expected.
 */
import type { CodecName, PartMessage, StreamName } from './messages.ts';

/** Which tensor of which stream some bytes are. */
export interface TensorHeader {
  readonly stream: StreamName;
  readonly step: number;
  readonly round: number;
  readonly tensor: number;
  readonly codec: CodecName;
}

/** A tensor that has arrived whole. `bytes` owns its buffer (offset 0), so it can be viewed as floats and transferred. */
export interface AssembledTensor extends TensorHeader {
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The length and form a tensor must have. */
export interface ExpectedTensor {
  readonly codec: CodecName;
  readonly totalBytes: number;
}

/** A tensor that is of no use any more, such as one of a step that is over: its parts are dropped. */
export interface IgnoredTensor {
  readonly ignore: string;
}

/** What to do with a tensor that begins; a string says why it is refused, which is a ProtocolError. */
export type PartVerdict = ExpectedTensor | IgnoredTensor | string;

/** Asked once for every tensor that begins (and for each further part of an ignored one). */
export type ExpectPart = (stream: StreamName, step: number, round: number, tensor: number) => PartVerdict;

/** The pieces of a tensor, in order. Payloads are views of `bytes`. */
export function* splitIntoParts(header: TensorHeader, bytes: Uint8Array): Generator<PartMessage> {
  yield { kind: 'part', ...header, offset: 0, totalBytes: bytes.length, payload: bytes };
}

/**
 * Puts the Parts of one connection together. Streams may interleave; the tensors of one stream follow
 * each other. It does not know which tensors have come before: duplicates are the caller's to see.
 */
export class PartAssembler {
  readonly #expect: ExpectPart;

  constructor(expect: ExpectPart) {
    this.#expect = expect;
  }

  /** Bytes allocated for tensors that are not complete yet. */
  get bytesHeld(): number {
    return 0;
  }

  /**
   * Takes the next part of its stream; returns the tensor once it is complete, otherwise null.
   * @throws ProtocolError UNEXPECTED_MESSAGE if it is refused or out of order, MALFORMED_MESSAGE if it does not fit
   */
  accept(part: PartMessage): AssembledTensor | null {
    throw new Error(`not written yet: ${part.stream} ${typeof this.#expect}`);
  }

  /** Drops half-received tensors: all, or those that `predicate` picks. */
  reset(predicate?: (header: TensorHeader) => boolean): void {
    throw new Error(`not written yet: ${typeof predicate}`);
  }
}
