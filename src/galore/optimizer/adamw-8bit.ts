/**
 * AdamW with its moments in one byte a number (block-quantiser.ts), as 8-bit GaLore (arXiv 2403.03507,
 * section 4.3) has them. States of fewer than MIN_8BIT_SIZE numbers are f32 and updated by adamw.ts. A step
 * goes over the numbers once, block by block in plain JavaScript: no f32 copy of the moments exists.
 */
import * as tf from '@tensorflow/tfjs-core';
import { carryMoments, requireSameRank, type Moments } from '../projection/transport.ts';
import { liftOf, scaleOf, updatedWeight } from '../step-rule.ts';
import { hasBasis, subspaceShape, type Slot } from '../slot.ts';
import { adamwRule, momentsOf, type AdamwOptions } from './adamw.ts';
import { stepSizes } from './bias-correction.ts';
import {
  blankCodes,
  decodeRoots,
  decodeSigned,
  encodeRoots,
  encodeSigned,
  newBlock,
  quantiseSigned,
  quantiseSquares,
  restoreSigned,
  restoreSquares,
  signedCodes,
  type BlockCodes,
} from './block-quantiser.ts';
import type { CarryInput, OptimizerRule, RuleState } from './rule.ts';
import { MIN_8BIT_SIZE, STATE_BLOCK } from './rule-state.ts';

/** Both moments as codes. */
export interface EightBitMoments {
  readonly m: BlockCodes;
  readonly v: BlockCodes;
}

/** New codes, and what is to be subtracted from the weight (after lifting, for a projected slot). */
export interface EightBitResult extends EightBitMoments {
  readonly direction: Float32Array;
}

export const adamw8bitRule: OptimizerRule = {
  step(input) {
    const { slot, weight, payload, state, basis, hyper } = input;
    if (!isEightBit(state)) return adamwRule.step(input);
    const gradient = payload.dataSync<'float32'>() as Float32Array;
    const { direction, m, v } = adamw8bitStep(gradient, codesOf(state), hyper, scaleOf(slot, hyper));
    // Nothing but tensors may leave a tidy: it would walk over every byte of the codes.
    const newWeight = tf.tidy(() => {
      const change = liftOf(slot, tf.tensor(direction, payload.shape), basis);
      return updatedWeight(weight, change, hyper);
    });
    return { weight: newWeight, state: stateOf(m, v) };
  },
  carry(input) {
    if (input.moments !== 'keep') return carryThroughF32(input);
    requireSameRank(input.change);
    return Object.fromEntries(
      Object.entries(input.state).map(([kind, value]) => [
        kind,
        value instanceof Uint8Array ? value.slice() : tf.clone(value),
      ]),
    );
  },
};

/**
 * `adamwStep` on codes: M and V are decoded, updated and coded again; the direction comes from the
 * moments before they are coded.
 */
export function adamw8bitStep(
  gradient: Float32Array,
  moments: EightBitMoments,
  options: AdamwOptions,
  scale: number = 1,
): EightBitResult {
  const sizes = stepSizes(options.learningRate, options.betas, options.eps, options.step, options.semantics);
  const update = { betas: options.betas, rate: sizes.stepSize * scale, eps: sizes.eps };
  const count = gradient.length;
  const direction = new Float32Array(count);
  const [m, v] = [blankCodes(count), blankCodes(count)];
  const [oldM, newM] = [signedCodes(moments.m.codes), signedCodes(m.codes)];
  const [first, root] = [newBlock(), newBlock()];
  for (let block = 0, start = 0; start < count; block++, start += STATE_BLOCK) {
    const end = Math.min(count, start + STATE_BLOCK);
    decodeSigned(oldM, moments.m.scales[block]!, start, end, first);
    decodeRoots(moments.v.codes, moments.v.scales[block]!, start, end, root);
    updateBlock(gradient, first.values, root.values, direction, start, end, update);
    m.scales[block] = encodeSigned(first, newM, start, end);
    v.scales[block] = encodeRoots(root, v.codes, start, end);
  }
  return { direction, m, v };
}

/** Adam on the numbers `start` to `end`: M and the root of V are at the beginning of `first` and `root`. */
function updateBlock(
  gradient: Float32Array,
  first: Float32Array,
  root: Float32Array,
  direction: Float32Array,
  start: number,
  end: number,
  { betas: [beta1, beta2], rate, eps }: { betas: readonly [number, number]; rate: number; eps: number },
): void {
  for (let i = start, j = 0; i < end; i++, j++) {
    const g = gradient[i]!;
    const oldRoot = root[j]!;
    const newFirst = beta1 * first[j]! + (1 - beta1) * g;
    const newRoot = Math.sqrt(beta2 * oldRoot * oldRoot + (1 - beta2) * g * g);
    first[j] = newFirst;
    root[j] = newRoot;
    direction[i] = (rate * newFirst) / (newRoot + eps);
  }
}

/** The state in the new basis: as f32, and coded again if it is long enough at its new rank. */
function carryThroughF32(input: CarryInput): RuleState {
  const { slot, state, change } = input;
  const { m, v } = tf.tidy(() => {
    const old = isEightBit(state)
      ? restored(state, atRank(slot, change.oldBasis.shape[1]))
      : momentsOf(state);
    return { ...carryMoments(old, input) };
  });
  if (m.size < MIN_8BIT_SIZE) return { m, v };
  const codes = stateOf(
    quantiseSigned(m.dataSync<'float32'>() as Float32Array),
    quantiseSquares(v.dataSync<'float32'>() as Float32Array),
  );
  tf.dispose([m, v]);
  return codes;
}

function isEightBit(state: RuleState): boolean {
  return state['m_codes'] !== undefined;
}

function codesOf(state: RuleState): EightBitMoments {
  const codes = (kind: 'm' | 'v'): BlockCodes => ({
    codes: state[`${kind}_codes`] as Uint8Array,
    scales: (state[`${kind}_scales`] as tf.Tensor).dataSync<'float32'>() as Float32Array,
  });
  return { m: codes('m'), v: codes('v') };
}

function stateOf(m: BlockCodes, v: BlockCodes): Record<string, tf.Tensor | Uint8Array> {
  return {
    m_codes: m.codes,
    m_scales: tf.tensor1d(m.scales),
    v_codes: v.codes,
    v_scales: tf.tensor1d(v.scales),
  };
}

function restored(state: RuleState, slot: Slot): Moments {
  const { m, v } = codesOf(state);
  const shape = [...subspaceShape(slot)];
  return { m: tf.tensor(restoreSigned(m), shape), v: tf.tensor(restoreSquares(v), shape) };
}

function atRank(slot: Slot, rank: number): Slot {
  return hasBasis(slot) ? { ...slot, rank } : slot;
}
