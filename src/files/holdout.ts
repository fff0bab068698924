/**
 * Which part of the data is held out for validation. Pure. Every unit (a document, or a piece where
 * documents are few) has a hash of its content; units whose hash is below a threshold are held out, so
 * neither the position nor the file a text stands in matters, and equal texts fall on the same side.
 * The threshold is chosen so that the held-out text comes as near to the wanted share as it can.
 */

const BUCKET_COUNT = 65536;

/** Fewer documents than this are split by pieces: a share of them cannot be met otherwise. */
export const MIN_DOCUMENTS_TO_SPLIT = 20;

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

/**
 * The threshold: units with a hash below it are held out. At least one unit is, and at least one is
 * not; with a share of 0, or where all units fall in one bucket, none is.
 */
export function heldOutBelow(tally: HashTally, share: number): number {
  const total = tally.reduce((sum, length) => sum + length, 0);
  const last = tally.findLastIndex((length) => length > 0);
  let best = 0;
  let bestError = Infinity;
  let heldOut = 0;
  for (let bucket = 0; bucket < last; bucket++) {
    if (tally[bucket] === 0) continue;
    heldOut += tally[bucket]!;
    const error = Math.abs(heldOut - share * total);
    if (error < bestError) {
      bestError = error;
      best = bucket + 1;
    }
  }
  return share > 0 ? best * (0x1_0000_0000 / BUCKET_COUNT) : 0;
}

/** Length of the pieces by which few documents of together `totalLength` are split. */
export function splitPieceLength(totalLength: number, share: number): number {
  const wanted = Math.floor((share * totalLength) / MIN_HELD_OUT_PIECES);
  return Math.min(MAX_PIECE_LENGTH, Math.max(MIN_PIECE_LENGTH, wanted));
}
