/**
 * A file as documents, and documents as pieces of bounded length. A text file is one document, a
 * line of JSONL is one. Says nothing about tokens.
 */
import { createHash } from 'node:crypto';
import { readJsonl, type BadLine, type JsonlRecord } from './jsonl.ts';
import type { Source } from './sources.ts';
import { cutPieces, cutText, readText } from './text.ts';

/** A file whose content is known by its hash. */
export interface HashedSource extends Source {
  readonly sha256: string;
}

/** Text with one answer to whether the loss is computed on it. */
export interface Segment {
  readonly text: string;
  readonly isTarget: boolean;
}

/** A part of a document, in order: the pieces of a document joined are the document. */
export interface Piece {
  readonly startsDocument: boolean;
  /** A hash of the document's whole content, uniform over the uint32. */
  readonly documentHash: number;
  readonly segments: readonly Segment[];
}

/**
 * The pieces of a file, each of at most `pieceLength` UTF-16 units; a prompt with its completion is never cut.
 * Lines of JSONL that cannot be used are told to `onBadLine` and left out; without it they are an error.
 * @throws DataError where the file is not what `source` says it is.
 */
export async function* readPieces(
  source: HashedSource,
  pieceLength: number,
  onBadLine?: (line: BadLine) => void,
): AsyncGenerator<Piece, void, void> {
  if (source.format === 'text') {
    const documentHash = Number.parseInt(source.sha256.slice(0, 8), 16);
    let startsDocument = true;
    for await (const text of cutPieces(readText(source.path, source.sha256), pieceLength)) {
      yield { startsDocument, documentHash, segments: [{ text, isTarget: true }] };
      startsDocument = false;
    }
    return;
  }
  for await (const record of readJsonl(source.path, { sha256: source.sha256, onBadLine })) {
    const documentHash = hashText(
      record.type === 'text' ? record.text : `${record.prompt}\0${record.completion}`,
    );
    yield* recordPieces(record, documentHash, pieceLength);
  }
}

function* recordPieces(
  record: JsonlRecord,
  documentHash: number,
  pieceLength: number,
): Generator<Piece, void, void> {
  if (record.type === 'completion') {
    const segments = [
      { text: record.prompt, isTarget: false },
      { text: record.completion, isTarget: true },
    ];
    yield { startsDocument: true, documentHash, segments };
    return;
  }
  let startsDocument = true;
  for (const text of cutText(record.text, pieceLength)) {
    yield { startsDocument, documentHash, segments: [{ text, isTarget: true }] };
    startsDocument = false;
  }
}

/** Number of UTF-16 units of a piece. */
export function pieceLengthOf(piece: Piece): number {
  return piece.segments.reduce((sum, segment) => sum + segment.text.length, 0);
}

/** A hash of the piece's own content, uniform over the uint32. */
export function pieceHash(piece: Piece): number {
  return hashText(piece.segments.map((segment) => segment.text).join('\0'));
}

/** A hash of a text, uniform over the uint32. */
export function hashText(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE(0);
}
