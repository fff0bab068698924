/**
 * The gated feed-forward layer (Shazeer 2020, arXiv 2002.05202), without biases.
 *
 *   g = h·Wgate',  u = h·Wup',  a = silu(g)·u,  y = a·Wdown',  silu(g) = g·σ(g)
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit } from './emit.ts';

export interface SwigluWeights {
  readonly gate: tf.Tensor2D; // [F, D]
  readonly up: tf.Tensor2D; // [F, D]
  readonly down: tf.Tensor2D; // [D, F]
}

/** What backward needs of forward. */
export type SwigluSaved = {
  readonly input: tf.Tensor2D; // [N, D], h, a factor
  readonly sigmoid: tf.Tensor2D; // [N, F], σ(g)
  readonly silu: tf.Tensor2D; // [N, F]
  readonly up: tf.Tensor2D; // [N, F], u
  readonly activation: tf.Tensor2D; // [N, F], a
  readonly activationFactor: tf.Tensor2D; // [N, F], a as a factor
};

/** Computes a and the rest of what backward needs; `input`, a factor (product.ts), belongs to it from then on. */
export function swigluActivate(
  input: tf.Tensor2D, // [N, D]
  weights: SwigluWeights,
): SwigluSaved {
  return tf.tidy(() => {
    const gate: tf.Tensor2D = product(input, weights.gate, false, true); // [N, F]
    const sigmoid: tf.Tensor2D = tf.sigmoid(gate);
    const silu: tf.Tensor2D = tf.mul(gate, sigmoid);
    gate.dispose();
    const up: tf.Tensor2D = product(input, weights.up, false, true); // [N, F]
    const activation: tf.Tensor2D = tf.mul(silu, up);
    return { input, sigmoid, silu, up, activation, activationFactor: factorOf(activation) };
  });
}

/** y = a·Wdown'. */
export function swigluOutput(saved: SwigluSaved, weights: SwigluWeights): tf.Tensor2D {
  return product(saved.activationFactor, weights.down, false, true); // [N, D]
}

/**
 * Hands out the three weight gradients and returns dh.
 *
 *   da = dy·Wdown,  du = da·silu(g),  dg = da·u·silu'(g) = da·(σ·(u − a) + a)
 */
export function swigluBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: SwigluWeights,
  saved: SwigluSaved,
  emit: Emit,
): tf.Tensor2D {
  const { input, sigmoid, silu, up, activation, activationFactor } = saved;
  using scope = new TensorScope();
  const dOutput = scope.hold(factorOf(dy));
  const dActivation = scope.hold(product(dOutput, weights.down)); // [N, F]
  const dDownWeight = productFactor(dOutput, activationFactor, true);
  scope.free(dOutput);
  emit('mlp.down_proj.weight', dDownWeight);
  const dUp: tf.Tensor2D = scope.hold(tf.tidy(() => factorOf(tf.mul(dActivation, silu)))); // [N, F]
  const dGate: tf.Tensor2D = scope.hold(
    tf.tidy(() => {
      const slope = tf.tidy(() => tf.mul(sigmoid, tf.sub(up, activation)));
      const sum = tf.add(slope, activation);
      return factorOf(tf.mul(dActivation, sum));
    }),
  ); // [N, F]
  scope.free(dActivation);
  const dInput: tf.Tensor2D = scope.hold(
    tf.tidy(() => tf.add(product(dUp, weights.up), product(dGate, weights.gate))),
  ); // [N, D]
  emit('mlp.up_proj.weight', productFactor(dUp, input, true));
  emit('mlp.gate_proj.weight', productFactor(dGate, input, true));
  return scope.release(dInput);
}
