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
 * How a slot's gradient travels: whole, projected on one side (GaLore), as the core U'GV between two bases
 * (TSR-Adam, arXiv 2602.08007), as half a step of a power iteration with error feedback (power.ts), as the rows
 * that are not zero (of an embedding, those of the tokens in the batch), or not at all, because the tensor is
 * not trained.
 */
export type Policy = 'dense' | 'one-sided' | 'two-sided' | 'power' | 'row-sparse' | 'frozen';

/**
 * What a trainer keeps of its gradient to send it later: nothing, what the codec rounded away of the payload,
 * or everything that did not travel, what the projection left out included.
 */
export type Feedback = 'none' | 'payload' | 'gradient';

/** What a state that has a number for each of a matrix is kept as. */
export type BufferDtype = 'f32' | 'bf16' | 'int8';

/** One trainable tensor: how it travels and which rule updates it. */
export type Slot = PlainSlot | RowSparseSlot | PowerSlot | ProjectedSlot;

interface SlotBase extends TensorSpec {
  readonly index: number;
  readonly policy: Policy;
  readonly rule: RuleName;
  /** The rule of the steps that each trainer takes by itself between two exchanges (displacement.ts); left out: none are taken. */
  readonly inner?: RuleName;
  /** The state of these steps begins anew after every exchange; left out: it is kept. */
  readonly isInnerReset?: true;
  /** What of the state of these steps all trainers average from time to time; left out: nothing. */
  readonly averaged?: AveragedMoments;
  /** Multiplies the update; left out: GaLore's alpha of the run for a slot with a basis, 1 for others. */
  readonly scale?: number;
  /** Left out: none. */
  readonly feedback?: Feedback;
}

/** A moment of local steps. */
export type MomentKind = 'm' | 'v';

/** Moments that travel behind the payload in some steps; moment-average.ts says what is done with them. */
export interface AveragedMoments {
  /** In the order in which they travel, in steps that are multiples of `period`. The last travels with all the others. */
  readonly moments: readonly { readonly kind: MomentKind; readonly period: number }[];
  /** Of tensors with moments, unless the slot's own is f32. */
  readonly codec: 'f32' | 'bf16';
}

/** Has no basis: travels whole and is updated as it is, or stays as it is. */
export interface PlainSlot extends SlotBase {
  readonly policy: 'dense' | 'frozen';
  readonly rank?: undefined;
  readonly weights?: undefined;
}

/** Of its gradient the rows travel that any token of the batch has touched (rows.ts); it is updated as a dense one. */
export interface RowSparseSlot extends SlotBase {
  readonly policy: 'row-sparse';
  /** Rows that can travel in a step at most: min(rows of the tensor, tokens of the step). */
  readonly mostRows: number;
  readonly rank?: undefined;
  readonly weights?: undefined;
}

/** Travels as EW or P'E by turns; its rule keeps the factors P `[m, r]` and W `[n, r]`. */
export interface PowerSlot extends SlotBase {
  readonly policy: 'power';
  readonly rule: 'power';
  readonly feedback: 'gradient';
  /** Effective rank: min(configured rank, m, n). */
  readonly rank: number;
  /** In steps s with s + phase odd the product EW `[m, r]` travels, in the others P'E `[r, n]`. */
  readonly phase: 0 | 1;
  readonly buffers: PowerBuffers;
  readonly weights?: undefined;
}

/** What the two matrices that a power slot costs a trainer are kept as. */
export interface PowerBuffers {
  readonly feedback: BufferDtype;
  readonly moment: BufferDtype;
}

/**
 * Has a basis. With policy `dense` the gradient travels whole all the same, for rules that need all of
 * it (Fira, APOLLO), and the basis only shrinks the state.
 */
export interface ProjectedSlot extends SlotBase {
  readonly policy: 'dense' | 'one-sided' | 'two-sided';
  /** Of a two-sided slot always `left`. */
  readonly side: Side;
  /** Effective rank: min(configured rank, m, n); with adaptive ranks what the last refresh chose. */
  readonly rank: number;
  /** How the weight is kept: in one byte a number (int8-weight.ts); left out: as f32. */
  readonly weights?: 'int8';
  /** Of a one-sided slot with feedback `gradient`. */
  readonly buffers?: Pick<PowerBuffers, 'feedback'>;
}

/** Keeps as an error of its own shape all of a gradient that did not travel. */
export type ErrorSlot = PowerSlot | (ProjectedSlot & Required<Pick<ProjectedSlot, 'buffers'>>);

/** How the table is to be made; see `methodPlan`. */
export interface SlotOptions {
  /** How matrices that are compressed travel; null: none is. */
  readonly policy: Policy | null;
  readonly rank: number;
  readonly projType: ProjType;
  /** A matrix whose name contains one of these is compressed. */
  readonly targetModules: readonly string[];
  /** How weights with a basis are kept; default: f32. */
  readonly weights?: 'f32' | 'int8';
  /** The rule of slots with a basis, and of all others. */
  readonly rule: RuleName;
  readonly plainRule: RuleName;
  /** The rule of local steps; left out: there are none, and the rules above take gradients. */
  readonly inner?: RuleName | undefined;
  readonly isInnerReset?: boolean | undefined;
  readonly averaged?: AveragedMoments | undefined;
  /** Of matrices that are compressed; default: none, with policy power gradient. */
  readonly feedback?: Feedback;
  /** Of power slots, and the error of one-sided ones; default: int8. */
  readonly buffers?: PowerBuffers;
  /** Tokens of a step over all trainers; left out: as many as there may be. */
  readonly stepTokens?: number;
  /** What is different for some tensors; of several that match the first counts. */
  readonly groups?: readonly SlotGroup[];
}

/** Other options for the tensors whose name contains one of `match`. */
export interface SlotGroup {
  readonly match: readonly string[];
  readonly policy?: Policy | undefined;
  readonly rank?: number | undefined;
  readonly scale?: number | undefined;
  readonly feedback?: Feedback | undefined;
}

/** GaLore's `proj_type` (algorithms: which side is projected, by the matrix' shape). */
export type ProjType = 'std' | 'reverse_std' | 'left' | 'right';

/** Whether the slot has a basis. */
export function hasBasis(slot: Slot): slot is ProjectedSlot {
  return 'side' in slot;
}

/**
 * Shape of what the rule is given in step `step`: R or the core for a projected slot, one of two products by turns
 * for a power slot, the tensor's own shape otherwise, and nothing (`[0]`) of a frozen one. All of it travels, but
 * of a row-sparse slot only rows.
 */
export function payloadShape(slot: Slot, step: number): readonly number[] {
  switch (slot.policy) {
    case 'frozen':
      return [0];
    case 'dense':
    case 'row-sparse':
      return slot.shape;
    case 'power':
      return isTallStep(slot, step) ? [matrixShape(slot)[0], slot.rank] : [slot.rank, matrixShape(slot)[1]];
    default:
      return subspaceShape(slot);
  }
}

/** Moments that travel in step `step`, each of the payload's shape. */
export function momentsIn({ averaged }: Slot, step: number): readonly MomentKind[] {
  return (averaged?.moments ?? []).filter(({ period }) => step % period === 0).map(({ kind }) => kind);
}

/**
 * Numbers of the tensor that a contribution or an update of step `step` has of a slot: the payload's, then those of
 * the moments. Of a row-sparse slot as if all rows travelled.
 */
export function tensorLength(slot: Slot, step: number): number {
  return (1 + momentsIn(slot, step).length) * sizeOf(payloadShape(slot, step));
}

/** The same, but of a row-sparse slot the most that can travel. */
export function payloadNumbers(slot: Slot, step: number): number {
  if (slot.policy === 'row-sparse') return slot.mostRows * matrixShape(slot)[1];
  return tensorLength(slot, step);
}

/** A kind of steps that send alike, by one of them, and how much of a run they are. */
export interface StepKind {
  readonly step: number;
  readonly share: number;
}

/** The kinds of steps there are for a slot: odd and even ones, or by the moments that travel. @param steps of the run */
export function stepKinds({ averaged }: Slot, steps: number = Infinity): readonly StepKind[] {
  if (averaged === undefined) return [1, 2].map((step) => ({ step, share: 1 / 2 }));
  const often = averaged.moments[0]!.period;
  const seldom = averaged.moments.at(-1)!.period;
  const shareOf = (period: number): number =>
    steps === Infinity ? 1 / period : Math.floor(steps / period) / steps;
  return [
    { step: 1, share: 1 - shareOf(often) },
    { step: often, share: shareOf(often) - shareOf(seldom) },
    { step: seldom, share: shareOf(seldom) },
  ].filter(({ share }) => share > 0);
}

/** Whether anything of a slot travels. */
export function travels({ policy }: Slot): boolean {
  return policy !== 'frozen';
}

/** Whether a power slot sends EW `[m, r]` in this step, and not P'E `[r, n]`. */
export function isTallStep(slot: PowerSlot, step: number): boolean {
  return (step + slot.phase) % 2 === 1;
}

/** Whether the contributions of a slot are parts of a sum, not means to be weighted: what was kept for later is in them. */
export function carriesSums({ feedback }: Slot): boolean {
  return feedback !== undefined && feedback !== 'none';
}

/** Whether its feedback keeps what the projection leaves out, too; a slot that travels whole has none of that. */
export function keepsError(slot: Slot): slot is ErrorSlot {
  return slot.feedback === 'gradient' && (slot.policy === 'power' || slot.policy === 'one-sided');
}

/** Whether what its feedback keeps lies in the subspace of its basis, and has to be sent before the basis changes. */
export function isFlushed(slot: Slot): boolean {
  return (
    carriesSums(slot) && !keepsError(slot) && (slot.policy === 'one-sided' || slot.policy === 'two-sided')
  );
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
  return inPhase(tensors.map((tensor, index) => buildSlot(tensor, index, options)));
}

/** The first of several groups that match a tensor's name. */
export function groupOf<T extends { readonly match: readonly string[] }>(
  name: string,
  groups: readonly T[],
): T | undefined {
  return groups.find(({ match }) => isNamedBy(name, match));
}

function isNamedBy(name: string, parts: readonly string[]): boolean {
  return parts.some((part) => name.includes(part));
}

function buildSlot(tensor: TensorSpec, index: number, options: SlotOptions): Slot {
  const group = groupOf(tensor.name, options.groups ?? []);
  const own = { ...tensor, index, ...(group?.scale === undefined ? {} : { scale: group.scale }) };
  if (group?.policy === 'frozen') return { ...own, policy: 'frozen', rule: options.plainRule };
  const { inner, averaged, isInnerReset } = options;
  const base = {
    ...own,
    ...(inner === undefined ? {} : { inner }),
    ...(isInnerReset === true ? { isInnerReset } : {}),
    ...(averaged === undefined ? {} : { averaged }),
  };
  const policy = group?.policy ?? (isNamedBy(tensor.name, options.targetModules) ? options.policy : null);
  const feedback = group?.feedback ?? options.feedback ?? 'none';
  const kept = feedback === 'none' ? {} : { feedback };
  if (tensor.shape.length !== 2) return { ...base, policy: 'dense', rule: options.plainRule };
  if (policy === null || policy === 'frozen' || group?.policy === 'dense') {
    return { ...base, policy: 'dense', rule: options.plainRule, ...kept };
  }
  const [m, n] = matrixShape(tensor);
  if (policy === 'row-sparse') {
    return { ...base, policy, rule: options.plainRule, mostRows: Math.min(m, options.stepTokens ?? m) };
  }
  const rank = Math.min(group?.rank ?? options.rank, m, n);
  const buffers = options.buffers ?? { feedback: 'int8', moment: 'int8' };
  if (policy === 'power') {
    return { ...base, policy, rule: 'power', feedback: 'gradient', rank, phase: 0, buffers };
  }
  const side = policy === 'two-sided' ? 'left' : sideOf(options.projType, m, n);
  const weights = options.weights === 'int8' ? { weights: 'int8' as const } : {};
  const error =
    policy === 'one-sided' && feedback === 'gradient' ? { buffers: { feedback: buffers.feedback } } : {};
  return { ...base, policy, rule: options.rule, side, rank, ...weights, ...kept, ...error };
}

/** Gives power slots their phases so that odd and even steps send about as much. */
function inPhase(slots: readonly Slot[]): readonly Slot[] {
  const phases = new Map<number, 0 | 1>();
  let lead = 0; // numbers that odd steps send more
  const excess = (slot: PowerSlot): number => (matrixShape(slot)[0] - matrixShape(slot)[1]) * slot.rank;
  const power = slots.filter((slot) => slot.policy === 'power');
  for (const slot of power.sort((a, b) => Math.abs(excess(b)) - Math.abs(excess(a)) || a.index - b.index)) {
    const phase = lead * excess(slot) > 0 ? 1 : 0;
    phases.set(slot.index, phase);
    lead += phase === 0 ? excess(slot) : -excess(slot);
  }
  return slots.map((slot) =>
    slot.policy === 'power' ? { ...slot, phase: phases.get(slot.index) ?? 0 } : slot,
  );
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
      const factors = slot.policy === 'power' ? ` ${slot.rank} ${slot.phase} ${slot.buffers.moment}` : '';
      const kept = slot.weights === undefined ? '' : ` ${slot.weights}`;
      const scale = slot.scale === undefined ? '' : ` scale ${slot.scale}`;
      const feedback = carriesSums(slot) ? ` feedback ${slot.feedback}` : '';
      const anew = slot.isInnerReset === true ? ' anew' : '';
      const inner = slot.inner === undefined ? '' : ` local ${slot.inner}${anew}`;
      const way = `${slot.policy} ${slot.rule}${projection}${factors}${kept}${scale}${feedback}${inner}${averagedText(slot)}`;
      return `${slot.index} ${slot.name} [${slot.shape.join(',')}] ${way}\n`;
    })
    .join('');
}

function averagedText({ averaged }: Slot): string {
  if (averaged === undefined) return '';
  const moments = averaged.moments.map(({ kind, period }) => ` ${kind} ${period}`);
  return ` averaged${moments.join('')} ${averaged.codec}`;
}
