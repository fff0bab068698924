/**
 * The messages of the simulated run. They follow proto/galore.proto, with bulk data replaced by
 * fingerprints: 32-bit numbers that depend on everything the real bytes would depend on, so that equal
 * fingerprints mean equal bytes.
 */
import { mix32 } from '../random.ts';
import type { HeldState } from '../trainer/core/session-state.ts';

/** Stands for a run of bytes. */
export type Fingerprint = number;

/** The fingerprint of something made of these parts, in this order. */
export function fold(...parts: readonly (Fingerprint | string)[]): Fingerprint {
  let print = mix32(parts.length);
  for (const part of parts) {
    if (typeof part === 'number') print = mix32((Math.imul(print, 0x01000193) ^ part) >>> 0);
    else for (let i = 0; i < part.length; i++) print = mix32((print ^ part.charCodeAt(i)) >>> 0);
  }
  return print;
}

/** A record of the journal, as it is sent. */
export interface SimulatedRecord {
  readonly sequence: number;
  readonly step: number;
  readonly kind: 'basis' | 'update';
  readonly content: Fingerprint;
  readonly digest: string;
  /** Of a basis record: each slot's new rank, which follows from the summed sketches. */
  readonly ranks: readonly SlotRank[];
  /** Of an update: whose contributions are in it. */
  readonly members: readonly string[];
}

/**
 * What a trainer keeps of its gradients: the steps whose contributions it has settled it by since it began with
 * zeros. Good as long as no step that counted the trainer is missing between them.
 */
export type LocalSteps = readonly number[];

/** The rank a refresh has chosen. */
export interface SlotRank {
  readonly slot: number;
  readonly rank: number;
}

/** The whole state of a trainer: the fold of the records over the first snapshot. */
export interface SimulatedState {
  readonly step: number;
  readonly sequence: number;
  /** All of it: weights, moments, bases. */
  readonly weights: Fingerprint;
  /** The weights alone, which is what a StateHash is of. */
  readonly model: Fingerprint;
  readonly digest: string;
  /** What the shapes of its bases are, as text: `4:2 5:6`; contributions have them too. */
  readonly shapes: string;
}

/** The state after a record. */
export function applyRecord(state: SimulatedState, record: SimulatedRecord): SimulatedState {
  return {
    step: record.kind === 'update' ? record.step : state.step,
    sequence: record.sequence,
    weights: fold(state.weights, record.content),
    model: record.kind === 'update' ? fold(state.model, record.content) : state.model,
    digest: record.digest,
    shapes: shapesAfter(state.shapes, record.ranks),
  };
}

function shapesAfter(shapes: string, ranks: readonly SlotRank[]): string {
  if (ranks.length === 0) return shapes;
  const known = shapes === '' ? [] : shapes.split(' ').map((each) => each.split(':').map(Number));
  const next = new Map(known.map(([slot = 0, rank = 0]) => [slot, rank]));
  for (const { slot, rank } of ranks) next.set(slot, rank);
  return shapesOf([...next].map(([slot, rank]) => ({ slot, rank })));
}

/** The same text for the same ranks. */
export function shapesOf(ranks: readonly SlotRank[]): string {
  return [...ranks]
    .sort((a, b) => a.slot - b.slot)
    .map(({ slot, rank }) => `${slot}:${rank}`)
    .join(' ');
}

/** The digest of the chain of records up to this one. */
export function chainDigest(previous: string, sequence: number, step: number, content: Fingerprint): string {
  return fold(previous, sequence, step, content).toString(16).padStart(8, '0');
}

/** What a trainer has computed: from which weights and from which sequences. */
export interface Provenance {
  readonly weights: Fingerprint;
  readonly positions: readonly number[];
  /** The shapes of the bases it was projected with. */
  readonly shapes: string;
}

/** From a trainer. */
export type UpMessage =
  | { readonly type: 'hello'; readonly trainerId: string; readonly held: HeldState | null }
  | { readonly type: 'ready'; readonly sequence: number }
  | { readonly type: 'heartbeat' }
  | {
      readonly type: 'sketch';
      readonly step: number;
      readonly round: number;
      readonly tokens: number;
      readonly factors: Fingerprint; // it was multiplied with
      readonly from: Provenance;
    }
  | {
      readonly type: 'factor';
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly content: Fingerprint;
    }
  | {
      readonly type: 'contribution';
      readonly step: number;
      readonly tokens: number;
      readonly from: Provenance;
    }
  | {
      readonly type: 'evaluation';
      readonly step: number;
      readonly tokens: number;
      readonly weights: Fingerprint;
    }
  | { readonly type: 'stateHash'; readonly step: number; readonly weights: Fingerprint }
  | { readonly type: 'snapshotPiece'; readonly step: number }
  | {
      readonly type: 'snapshot';
      readonly step: number;
      readonly request: number;
      readonly state: SimulatedState;
      readonly local: LocalSteps;
    };

/** From the coordinator. */
export type DownMessage =
  | { readonly type: 'welcome'; readonly runId: string; readonly hasSnapshot: boolean }
  | { readonly type: 'goodbye'; readonly code: number; readonly text: string }
  | { readonly type: 'ping' }
  | { readonly type: 'snapshot'; readonly state: SimulatedState; readonly local: LocalSteps }
  | { readonly type: 'record'; readonly record: SimulatedRecord }
  | {
      readonly type: 'assignStep';
      readonly step: number;
      readonly positions: readonly number[];
      readonly refreshSlots: readonly number[];
      /** The last record before it: real connections keep the order, the simulated network may not. */
      readonly sequence: number;
    }
  | {
      readonly type: 'requestSketches';
      readonly step: number;
      readonly round: number;
      readonly factors: Fingerprint; // of the round before
    }
  | {
      readonly type: 'assignFactors';
      readonly step: number;
      readonly round: number;
      readonly slots: readonly number[];
      readonly sum: Fingerprint;
    }
  /** For people: it has no part in a step. */
  | { readonly type: 'passOver' }
  | { readonly type: 'rejectStep'; readonly step: number }
  | { readonly type: 'assignEvaluation'; readonly step: number; readonly sequences: readonly number[] }
  | {
      readonly type: 'requestSnapshot';
      readonly step: number;
      readonly sequence: number;
      /** Which one: real connections keep the order, so that each end of a snapshot answers the oldest request. */
      readonly request: number;
    };

/** Tokens of a sequence; a few have none at all. */
export function tokensOf(position: number): number {
  return position % 97 === 13 ? 0 : 20 + (position % 7);
}
