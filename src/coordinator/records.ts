/** Makes records: the frames (Parts, then a Commit) that are journalled and go to every trainer. */
import { encodeEnvelope } from '../protocol/envelope.ts';
import { recordDigest } from '../protocol/digest.ts';
import type { BasisRecord, CommitMessage, UpdateRecord } from '../protocol/messages.ts';
import { splitIntoParts } from '../protocol/parts.ts';

/** A record ready for the journal and the wire. */
export interface SealedRecord {
  readonly frames: readonly Uint8Array[];
  readonly commit: CommitMessage;
}

/** Where a record stands in the journal. */
export interface RecordPlace {
  readonly sequence: number;
  readonly step: number;
  readonly previousDigest: Uint8Array;
}

/** A slot's new basis, f32. */
export interface NewBasis {
  readonly bytes: Uint8Array;
  /** With adaptive ranks; of all bases of a record, or of none. */
  readonly rank?: number | undefined;
  /** If the run asks for it; of all or of none, -1 for a slot that had no basis. */
  readonly similarity?: number | undefined;
}

/** Seals the record that installs new bases; a slot without a basis here keeps its old one. */
export function sealBases(
  place: RecordPlace,
  refreshed: readonly number[],
  bases: ReadonlyMap<number, NewBasis>,
): SealedRecord {
  const parts: Uint8Array[] = [];
  for (const index of refreshed) {
    const basis = bases.get(index);
    if (basis === undefined) continue;
    const header = { stream: 'basis', step: place.step, round: 0, tensor: index, codec: 'f32' } as const;
    for (const part of splitIntoParts(header, basis.bytes)) parts.push(encodeEnvelope(part));
  }
  const renewed = refreshed.flatMap((index) => bases.get(index) ?? []);
  return seal(place, parts, {
    type: 'basis',
    slots: refreshed.filter((index) => bases.has(index)),
    keptSlots: refreshed.filter((index) => !bases.has(index)),
    isGenerated: false,
    ranks: renewed.flatMap(({ rank }) => rank ?? []),
    similarities: renewed.flatMap(({ similarity }) => similarity ?? []),
  });
}

/** Seals the record that tells every trainer to make new bases of these slots from the run's seed. */
export function sealGenerated(place: RecordPlace, slots: readonly number[]): SealedRecord {
  return seal(place, [], {
    type: 'basis',
    slots: [...slots],
    keptSlots: [],
    isGenerated: true,
    ranks: [],
    similarities: [],
  });
}

/** Ends a record: the digest is that of its Parts. */
export function seal(
  place: RecordPlace,
  parts: readonly Uint8Array[],
  record: BasisRecord | UpdateRecord,
  digest: Uint8Array = recordDigest(place.previousDigest, place.sequence, place.step, parts),
): SealedRecord {
  const commit: CommitMessage = { kind: 'commit', ...place, digest, record };
  return { frames: [...parts, encodeEnvelope(commit)], commit };
}
