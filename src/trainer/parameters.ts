/**
 * The parametrisation on the engine: the model's weights from the slots', and the gradients of the slots' from those
 * of the model's. Everything that trains takes its gradients through `slotGradients`.
 */
import * as tf from '@tensorflow/tfjs-core';
import type {
  Engine,
  MadeTensor,
  MapInput,
  ParameterTable,
} from '../galore/parametrisation/parametrisation.ts';
import { product } from '../galore/product.ts';
import { travels, type Slot } from '../galore/slot.ts';
import type { OnGradient, Wants } from './model/model.ts';
import type { WeightMaker, WeightStore } from './model/weights.ts';
import { wantsOf } from './wanted.ts';

const ENGINE: Engine = { tf, product };

/** What a store makes the model's weights with; null: slots are all there is. */
export function weightMaker(table: ParameterTable): WeightMaker | null {
  const { made, parametrisation } = table;
  if (made.size === 0) return null;
  return {
    shapeOf: (name) => made.get(name)?.tensor.shape ?? null,
    make: (name, partOf) => parametrisation.materialise(inputOf(made.get(name)!, partOf)),
  };
}

/** The values of a tensor's parts, for its map. */
export function inputOf(made: MadeTensor, partOf: (name: string) => tf.Tensor): MapInput {
  return { made, values: made.parts.map(({ name }) => partOf(name)), engine: ENGINE };
}

/** What a model's backward pass is called with: `forwardBackward(batch, scale, onGradient, wants)`. */
export interface GradientTaker {
  readonly onGradient: OnGradient;
  readonly wants: Wants;
}

/**
 * For one backward pass, in which it hands on the gradient of each slot that is trained, once, and whole:
 * of a part of several tensors when the last of them has come. What holds for gradients of the model holds for
 * these: they may be factors, and go when `take` returns unless it keeps them.
 */
export function slotGradients(
  table: ParameterTable | null,
  slots: readonly Slot[],
  weights: WeightStore,
  take: (slot: Slot, gradient: tf.Tensor) => void,
): GradientTaker {
  const slotsByName = new Map(slots.filter(travels).map((slot) => [slot.name, slot]));
  const sums = new SharedGradients(table);
  const wants = wantsOf(slots, (name) => table?.made.get(name)?.parts.map((part) => part.name) ?? [name]);
  const onGradient: OnGradient = (name, gradient) => {
    const made = table?.made.get(name);
    if (made === undefined) {
      const slot = slotsByName.get(name);
      if (slot !== undefined) take(slot, gradient);
      return;
    }
    // All before the first is taken: a slot may be updated at once.
    const pulled = table!.parametrisation.pullback(
      gradient,
      inputOf(made, (part) => weights.part(part)),
    );
    made.parts.forEach((part, i) => {
      const own = pulled[i] ?? null;
      const whole = own === null ? null : sums.add(part.name, own);
      if (whole === null) return;
      const slot = slotsByName.get(part.name);
      if (slot !== undefined) take(slot, whole);
      if (!whole.kept) whole.dispose();
    });
  };
  return { onGradient, wants };
}

/** Sums of the gradients of parts that several tensors are made of. */
class SharedGradients {
  readonly #uses = new Map<string, number>();
  readonly #sums = new Map<string, { readonly sum: tf.Tensor; readonly terms: number }>();

  constructor(table: ParameterTable | null) {
    for (const { parts } of table?.made.values() ?? []) {
      for (const { name } of parts) this.#uses.set(name, (this.#uses.get(name) ?? 0) + 1);
    }
  }

  /** Adds a term, which it takes over; the sum if it was the last, else null. */
  add(name: string, term: tf.Tensor): tf.Tensor | null {
    const uses = this.#uses.get(name)!;
    if (uses === 1) return term;
    const before = this.#sums.get(name);
    const sum = before === undefined ? term : tf.add(before.sum, term);
    if (before !== undefined) tf.dispose([before.sum, term]);
    const terms = (before?.terms ?? 0) + 1;
    if (terms < uses) {
      this.#sums.set(name, { sum: tf.keep(sum), terms });
      return null;
    }
    this.#sums.delete(name);
    return sum;
  }
}
