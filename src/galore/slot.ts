/**
 * The slot table: every trainable tensor of the model with the way it travels. Coordinator and
 * trainers build it from the same configuration and compare its hash in the handshake. Pure.
 */
import type { RuleName } from './optimizer/rule-state.ts';

/** A tensor of the model, by its Hugging Face name. */
export interface TensorSpec {
  readonly name: string;
  /** `[out, in]` for a linear weight, `[vocab, hidden]` for embeddings, `[n]` for norms. */
  readonly shape: readonly number[];
}

/** The side of the gradient the basis multiplies: `left` R = P'G, `right` R = GP. */
export type Side = 'left' | 'right';

/**
 * How a slot's gradient travels: whole, projected on one side (GaLore), or as the core U'GV between two
 * bases (TSR-Adam, arXiv 2602.08007).
 */
export type Policy = 'dense' | 'one-sided' | 'two-sided';

/** One trainable tensor: how it travels and which rule updates it. */
export type Slot = PlainSlot | ProjectedSlot;

interface SlotBase extends TensorSpec {
  readonly index: number;
  readonly policy: Policy;
  readonly rule: RuleName;
}

/** Has no basis: travels whole and is updated as it is. */
export interface PlainSlot extends SlotBase {
  readonly policy: 'dense';
  readonly rank?: undefined;
  readonly weights?: undefined;
}

/**
 * Has a basis. With policy `dense` the gradient travels whole all the same, for rules that need all of
 * it (Fira, APOLLO), and the basis only shrinks the state.
 */
export interface ProjectedSlot extends SlotBase {
  /** Of a two-sided slot always `left`. */
  readonly side: Side;
  /** Effective rank: min(configured rank, m, n); with adaptive ranks what the last refresh chose. */
  readonly rank: number;
  /** How the weight is kept: in one byte a number (int8-weight.ts); left out: as f32. */
  readonly weights?: 'int8';
}

/** How the table is to be made; see `methodPlan`. */
export interface SlotOptions {
  /** How matrices with a basis travel; null: no matrix has one. */
  readonly policy: Policy | null;
  readonly rank: number;
  readonly projType: ProjType;
  /** A matrix whose name contains one of these gets a basis. */
  readonly targetModules: readonly string[];
  /** How weights with a basis are kept; default: f32. */
  readonly weights?: 'f32' | 'int8';
  /** The rule of slots with a basis, and of all others. */
  readonly rule: RuleName;
  readonly plainRule: RuleName;
}

/** GaLore's `proj_type` (algorithms: which side is projected, by the matrix' shape). */
export type ProjType = 'std' | 'reverse_std' | 'left' | 'right';

/** Whether the slot has a basis. */
export function hasBasis(slot: Slot): slot is ProjectedSlot {
  return slot.rank !== undefined;
}

/** Shape of what travels each step: R or the core for a projected slot, the tensor's own shape otherwise. */
export function payloadShape(slot: Slot): readonly number[] {
  return slot.policy === 'dense' ? slot.shape : subspaceShape(slot);
}

/** Shape of what the optimizer's moments live on: R, the core, or the tensor itself without a basis. */
export function subspaceShape(slot: Slot): readonly number[] {
  if (!hasBasis(slot)) return slot.shape;
  if (slot.policy === 'two-sided') return [slot.rank, slot.rank];
  const [m, n] = matrixShape(slot);
  return slot.side === 'left' ? [slot.rank, n] : [m, slot.rank];
}

/**
 * Shape of the basis P: `[m, r]` for side left, `[n, r]` for side right. The two bases of a two-sided slot
 * are one tensor, U `[m, r]` above V `[n, r]`.
 */
export function basisShape(slot: ProjectedSlot): readonly [number, number] {
  const [m, n] = matrixShape(slot);
  if (slot.policy === 'two-sided') return [m + n, slot.rank];
  return [slot.side === 'left' ? m : n, slot.rank];
}

/** Rows of each orthonormal matrix in the basis tensor, from above: one, or of a two-sided slot U's and V's. */
export function basisRows(slot: ProjectedSlot): readonly number[] {
  return slot.policy === 'two-sided' ? matrixShape(slot) : [basisShape(slot)[0]];
}

/** Rows and columns of a two-dimensional slot. */
export function matrixShape(slot: TensorSpec): readonly [number, number] {
  const [m, n] = slot.shape;
  if (m === undefined || n === undefined || slot.shape.length !== 2) {
    throw new RangeError(`${slot.name} has shape [${slot.shape.join(', ')}], not two dimensions`);
  }
  return [m, n];
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/**
 * The side `proj_type` puts the basis on for an m x n matrix (GaLore's galore_projector.py): `std`
 * projects so that R keeps rank x max(m, n) entries, `reverse_std` the other way.
 */
export function sideOf(projType: ProjType, m: number, n: number): Side {
  switch (projType) {
    case 'left':
    case 'right':
      return projType;
    case 'std':
      return m >= n ? 'right' : 'left';
    case 'reverse_std':
      return m >= n ? 'left' : 'right';
  }
}

/**
 * Builds the table in the order of `tensors`. Matrices whose name contains a target module get a basis
 * (the reference's rule: `attn` and `mlp`); everything else is dense.
 */
export function buildSlots(tensors: readonly TensorSpec[], options: SlotOptions): readonly Slot[] {
  const { policy, targetModules, rule, plainRule } = options;
  return tensors.map((tensor, index): Slot => {
    const isTarget = tensor.shape.length === 2 && targetModules.some((part) => tensor.name.includes(part));
    if (policy === null || !isTarget) return { ...tensor, index, policy: 'dense', rule: plainRule };
    const [m, n] = matrixShape(tensor);
    const side = policy === 'two-sided' ? 'left' : sideOf(options.projType, m, n);
    const kept = options.weights === 'int8' ? { weights: 'int8' as const } : {};
    return { ...tensor, index, policy, rule, side, rank: Math.min(options.rank, m, n), ...kept };
  });
}

/** The table with other ranks, by slot index, as a refresh with adaptive ranks chose them. */
export function withRanks(slots: readonly Slot[], ranks: ReadonlyMap<number, number>): readonly Slot[] {
  return slots.map((slot) => {
    const rank = ranks.get(slot.index);
    return rank === undefined || !hasBasis(slot) ? slot : { ...slot, rank };
  });
}

/** The text whose SHA-256 is the schema hash: one line per slot, everything both sides must agree on. */
export function describeSlots(slots: readonly Slot[]): string {
  return slots
    .map((slot) => {
      const projection = hasBasis(slot) ? ` ${slot.side} ${slot.rank}` : '';
      const kept = slot.weights === undefined ? '' : ` ${slot.weights}`;
      return `${slot.index} ${slot.name} [${slot.shape.join(',')}] ${slot.policy} ${slot.rule}${projection}${kept}\n`;
    })
    .join('');
}
