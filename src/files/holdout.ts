/**
 * Which part of the data is held out for validation. Pure. Every unit (a document, or a piece where
 * documents are few) has a hash of its content; units whose hash is below a threshold are held out, so
 * neither the position nor the file a text stands in matters, and equal texts fall on the same side.
 * The threshold is chosen so that the held-out text comes as near to the wanted share as it can.
 */

const BUCKET_COUNT = 65536;

/** Fewer documents than this are not held out whole. */
const MIN_DOCUMENTS_TO_SPLIT = 20;

const MIN_PIECE_LENGTH = 1024;
/** Length of a piece of text, in UTF-16 units, where nothing asks for smaller ones. */
export const MAX_PIECE_LENGTH = 64 * 1024;
/** The held-out part of a small text should be made of several pieces. */
const MIN_HELD_OUT_PIECES = 4;

/** Amount of text by hash, in equal buckets: memory does not grow with the number of units. */
export type HashTally = Float64Array;

/** A tally of nothing. */
export function emptyTally(): HashTally {
  return new Float64Array(BUCKET_COUNT);
}

/** Counts a unit of `length` under its hash. */
export function tallyUnit(tally: HashTally, hash: number, length: number): void {
  tally[hash >>> 16]! += length;
}

/** Units with a hash below `below` are held out; together they have `length`. */
export interface Holdout {
  readonly below: number;
  readonly length: number;
}

/**
 * What is held out for a share of the whole: the nearest that can be had with at least one unit held
 * out and at least one not. Nothing, with a share of 0 or where all units fall in one bucket.
 */
export function chooseHoldout(tally: HashTally, share: number): Holdout {
  const wanted = share * tally.reduce((sum, length) => sum + length, 0);
  const last = tally.findLastIndex((length) => length > 0);
  let best: Holdout = { below: 0, length: 0 };
  let heldOut = 0;
  for (let bucket = 0; bucket < last && share > 0; bucket++) {
    if (tally[bucket] === 0) continue;
    heldOut += tally[bucket]!;
    if (best.length > 0 && Math.abs(heldOut - wanted) >= Math.abs(best.length - wanted)) break;
    best = { below: (bucket + 1) * (0x1_0000_0000 / BUCKET_COUNT), length: heldOut };
  }
  return best;
}

/**
 * True where whole documents cannot be held out sensibly: there are few, or they are so large that the
 * share is missed by more than half of it. Then pieces of documents are held out instead.
 */
export function needsPieces(
  documents: number,
  holdout: Holdout,
  totalLength: number,
  share: number,
): boolean {
  const missed = Math.abs(holdout.length - share * totalLength);
  return documents < MIN_DOCUMENTS_TO_SPLIT || missed > 0.5 * share * totalLength;
}

/** Length of the pieces by which few documents of together `totalLength` are split. */
export function splitPieceLength(totalLength: number, share: number): number {
  const wanted = Math.floor((share * totalLength) / MIN_HELD_OUT_PIECES);
  return Math.min(MAX_PIECE_LENGTH, Math.max(MIN_PIECE_LENGTH, wanted));
}
