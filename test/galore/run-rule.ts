/** A slot through its rule for some steps, as a replica takes it: carry at a refresh, payload, step. */
import { tensorsOf, type Hyperparameters, type RuleState } from '../../src/galore/optimizer/rule.ts';
import { firstState, ruleFor } from '../../src/galore/optimizer/rules.ts';
import { payloadOf } from '../../src/galore/projection/project-lift.ts';
import type { MomentsRule } from '../../src/galore/projection/transport.ts';
import { basisShape, hasBasis, type Slot } from '../../src/galore/slot.ts';
import { OTHER_RULES } from './apply-update.ts';
import { tf, type Tensor, type Tensor2D } from './tensors.ts';

export const HYPER: Hyperparameters = {
  ...OTHER_RULES,
  step: 1,
  learningRate: 0.01,
  betas: [0.9, 0.99],
  eps: 1e-8,
  weightDecay: 0,
  semantics: 'torch',
  scale: 0.25,
};

export interface RuleRun {
  readonly slot: Slot;
  readonly weights: ArrayLike<number>;
  /** Whole gradients, one a step; a function gets the weights. */
  readonly gradients:
    | readonly ArrayLike<number>[]
    | { readonly steps: number; readonly of: (weights: Float32Array, step: number) => Float32Array };
  /** All but the step. */
  readonly hyper: (step: number) => Partial<Hyperparameters>;
  /** The new basis of a step that begins with a refresh. */
  readonly basis?: (step: number) => ArrayLike<number> | undefined;
  readonly moments?: MomentsRule;
}

export interface RuleTrace {
  /** After each step. */
  readonly weights: Float32Array[];
  /** After the last. */
  readonly state: Readonly<Record<string, ArrayLike<number>>>;
}

/** Numbers of a state by kind. */
export function valuesOf(state: RuleState): Record<string, ArrayLike<number>> {
  return Object.fromEntries(
    Object.entries(state).map(([kind, value]) => [
      kind,
      value instanceof Uint8Array ? value : (value.dataSync().slice() as Float32Array),
    ]),
  );
}

/** Steps are numbered from 1. No tensor is left. */
export function runRule(run: RuleRun): RuleTrace {
  const { slot } = run;
  const rule = ruleFor(slot.rule);
  const trace: Float32Array[] = [];
  let weight: Tensor = tf.tensor(Float32Array.from(run.weights), [...slot.shape]);
  let state = firstState(slot, 0);
  let basis: Tensor2D | null = null;
  const steps = 'of' in run.gradients ? run.gradients.steps : run.gradients.length;
  for (let step = 1; step <= steps; step++) {
    const values =
      'of' in run.gradients
        ? run.gradients.of(trace.at(-1) ?? Float32Array.from(run.weights), step)
        : Float32Array.from(run.gradients[step - 1]!);
    const gradient = tf.tensor(values, [...slot.shape]);
    const fresh = run.basis?.(step);
    if (fresh !== undefined && hasBasis(slot)) {
      const newBasis = tf.tensor2d(Float32Array.from(fresh), [...basisShape(slot)]);
      if (basis !== null) {
        const old = state;
        state = rule.carry({
          slot,
          state,
          change: { oldBasis: basis, newBasis, side: slot.side },
          moments: run.moments ?? 'keep',
          completedSteps: step - 1,
          betas: run.hyper(step).betas ?? HYPER.betas,
        });
        tf.dispose([...tensorsOf(old), basis]);
      }
      basis = newBasis;
    }
    const payload = payloadOf(slot, gradient, basis);
    const hyper = { ...HYPER, ...run.hyper(step), step };
    const next = rule.step({ slot, weight, payload, state, basis, hyper });
    tf.dispose([payload, gradient, weight, ...tensorsOf(state)]);
    ({ weight, state } = next);
    trace.push(weight.dataSync<'float32'>().slice() as Float32Array);
  }
  const final = valuesOf(state);
  tf.dispose([weight, ...tensorsOf(state)]);
  basis?.dispose();
  return { weights: trace, state: final };
}
