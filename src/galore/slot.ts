/**
 * The slot table: every trainable tensor of the model with the way it travels. Coordinator and
 * trainers build it from the same configuration and compare its hash in the handshake. Pure.
 */

/** A tensor of the model, by its Hugging Face name. */
export interface TensorSpec {
  readonly name: string;
  /** `[out, in]` for a linear weight, `[vocab, hidden]` for embeddings, `[n]` for norms. */
  readonly shape: readonly number[];
}

/** The side of the gradient the basis multiplies: `left` R = P'G, `right` R = GP. */
export type Side = 'left' | 'right';

/** One trainable tensor and its policy. */
export type Slot = DenseSlot | ProjectedSlot;

/** Travels whole. */
export interface DenseSlot extends TensorSpec {
  readonly index: number;
  readonly policy: 'dense';
}

/** Travels projected (GaLore). */
export interface ProjectedSlot extends TensorSpec {
  readonly index: number;
  readonly policy: 'one-sided';
  readonly side: Side;
  /** Effective rank: min(configured rank, m, n). */
  readonly rank: number;
}

/** How the table is to be made; the fields of `method` in the configuration that matter here. */
export interface SlotOptions {
  readonly method: 'galore' | 'full';
  readonly rank: number;
  readonly projType: ProjType;
}

/** GaLore's `proj_type` (algorithms: which side is projected, by the matrix' shape). */
export type ProjType = 'std' | 'reverse_std' | 'left' | 'right';

/** Shape of what travels each step: R for a projected slot, the tensor's own shape otherwise. */
export function payloadShape(slot: Slot): readonly number[] {
  if (slot.policy === 'dense') return slot.shape;
  const [m, n] = matrixShape(slot);
  return slot.side === 'left' ? [slot.rank, n] : [m, slot.rank];
}

/** Shape of the basis P: `[m, r]` for side left, `[n, r]` for side right. */
export function basisShape(slot: ProjectedSlot): readonly [number, number] {
  const [m, n] = matrixShape(slot);
  return [slot.side === 'left' ? m : n, slot.rank];
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
 * Builds the table in the order of `tensors`. Matrices whose name contains `attn` or `mlp` are
 * projected when the method is GaLore (the reference's rule); everything else is dense.
 */
export function buildSlots(tensors: readonly TensorSpec[], options: SlotOptions): readonly Slot[] {
  return tensors.map((tensor, index): Slot => {
    const isProjected =
      options.method === 'galore' && tensor.shape.length === 2 && /attn|mlp/.test(tensor.name);
    if (!isProjected) return { ...tensor, index, policy: 'dense' };
    const [m, n] = matrixShape(tensor);
    const side = sideOf(options.projType, m, n);
    return { ...tensor, index, policy: 'one-sided', side, rank: Math.min(options.rank, m, n) };
  });
}

/** The text whose SHA-256 is the schema hash: one line per slot, everything both sides must agree on. */
export function describeSlots(slots: readonly Slot[]): string {
  return slots
    .map((slot) => {
      const projection = slot.policy === 'one-sided' ? ` ${slot.side} ${slot.rank}` : '';
      return `${slot.index} ${slot.name} [${slot.shape.join(',')}] ${slot.policy}${projection}\n`;
    })
    .join('');
}
