/** Records for journal tests: real frames with a real digest chain. */
import { galore } from '#messages';
import { FIRST_DIGEST, recordDigest } from '../../../src/protocol/digest.ts';
import type { RecordSummary } from '../../../src/coordinator/store/journal.ts';

const { Envelope, Stream, Codec } = galore.v1;

/** A record ready to be appended. */
export interface TestRecord {
  readonly frames: readonly Uint8Array[];
  readonly summary: RecordSummary;
}

/** What a test may choose about a record. */
export interface RecordOptions {
  readonly kind?: 'basis' | 'update';
  readonly step?: number;
  /** One Part for each, of that many bytes. */
  readonly partBytes?: readonly number[];
  readonly previousDigest?: Uint8Array;
  /** Of an update. */
  readonly members?: readonly { readonly trainerId: string; readonly positions: readonly number[] }[];
  readonly cursor?: { readonly next: number; readonly returned: readonly number[] };
}

const MEMBERS = [
  { trainerId: 'a', tokens: 60, positions: [0, 1] },
  { trainerId: 'b', tokens: 40, positions: [2] },
];

/** The record after the one with `previousDigest`. */
export function makeRecord(sequence: number, options: RecordOptions = {}): TestRecord {
  const { kind = 'update', step = sequence, partBytes = [5, 3], previousDigest = FIRST_DIGEST } = options;
  const { cursor = { next: 3 * step, returned: [1] } } = options;
  const parts = partBytes.map((bytes, tensor) =>
    Envelope.encode({
      part: {
        stream: kind === 'basis' ? Stream.STREAM_BASIS : Stream.STREAM_UPDATE,
        step,
        tensor,
        codec: Codec.CODEC_F32,
        totalBytes: bytes,
        payload: new Uint8Array(bytes).fill(sequence),
      },
    }).finish(),
  );
  const digest = recordDigest(previousDigest, sequence, step, parts);
  const base = { sequence, step, previousDigest, digest };
  const commit =
    kind === 'basis'
      ? { ...base, basis: { slots: [0] } }
      : {
          ...base,
          update: {
            learningRate: 0.01,
            tokens: 100,
            lossSum: 250,
            gradientNorm: 1,
            members: (options.members ?? MEMBERS).map((member) => ({
              tokens: 10 * member.positions.length,
              ...member,
              positions: [...member.positions],
            })),
            cursor: { next: cursor.next, returned: [...cursor.returned] },
          },
        };
  return {
    frames: [...parts, Envelope.encode({ commit }).finish()],
    summary: { sequence, step, digest, kind },
  };
}

/** Records 1 to `count`, each update of the step of its sequence. */
export function makeRecords(count: number, options: RecordOptions = {}): TestRecord[] {
  const records: TestRecord[] = [];
  for (let sequence = 1; sequence <= count; sequence++) {
    const previousDigest = records.at(-1)?.summary.digest ?? FIRST_DIGEST;
    records.push(makeRecord(sequence, { ...options, previousDigest }));
  }
  return records;
}

/** All frames as one list of plain arrays, for comparison. */
export async function collect(frames: AsyncIterable<Uint8Array>): Promise<Buffer[]> {
  const all: Buffer[] = [];
  for await (const frame of frames) all.push(Buffer.from(frame));
  return all;
}

/** The frames of records, as `collect` gives them. */
export function framesOf(...records: readonly TestRecord[]): Buffer[] {
  return records.flatMap(({ frames }) => frames.map((frame) => Buffer.from(frame)));
}
