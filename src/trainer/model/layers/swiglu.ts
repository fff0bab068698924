/**
 * The gated feed-forward layer (Shazeer 2020, arXiv 2002.05202), without biases.
 *
 *   g = h·Wgate',  u = h·Wup',  a = silu(g)·u,  y = a·Wdown',  silu(g) = g·σ(g)
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, product, productFactor } from '../../../galore/product.ts';
import { swiglu, swigluGradient } from '../passes.ts';
import { TensorScope } from '../tensor-scope.ts';
import type { Emit, Wants } from './emit.ts';

export interface SwigluWeights {
  readonly gate: tf.Tensor2D; // [F, D]
  readonly up: tf.Tensor2D; // [F, D]
  readonly down: tf.Tensor2D; // [D, F]
}

/** What backward needs of forward; all of them factors (product.ts). */
export type SwigluSaved = {
  readonly input: tf.Tensor2D; // [N, D], h
  readonly gate: tf.Tensor2D; // [N, F], g
  readonly up: tf.Tensor2D; // [N, F], u
  readonly activation: tf.Tensor2D; // [N, F], a
};

/** Computes a and the rest of what backward needs; `input`, a factor, belongs to it from then on. */
export function swigluActivate(
  input: tf.Tensor2D, // [N, D]
  weights: SwigluWeights,
): SwigluSaved {
  return tf.tidy(() => {
    const gate: tf.Tensor2D = productFactor(input, weights.gate, false, true); // [N, F]
    const up: tf.Tensor2D = productFactor(input, weights.up, false, true); // [N, F]
    return { input, gate, up, activation: swiglu(gate, up) };
  });
}

/** y = a·Wdown'. */
export function swigluOutput(saved: SwigluSaved, weights: SwigluWeights): tf.Tensor2D {
  return product(saved.activation, weights.down, false, true); // [N, D]
}

/**
 * Hands out the weight gradients that are wanted and returns dh.
 *
 *   da = dy·Wdown,  du = da·silu(g),  dg = da·u·silu'(g)
 */
export function swigluBackward(
  dy: tf.Tensor2D, // [N, D]
  weights: SwigluWeights,
  saved: SwigluSaved,
  emit: Emit,
  wants: Wants = () => true,
): tf.Tensor2D {
  const { input, gate, up, activation } = saved;
  using scope = new TensorScope();
  const dOutput = scope.hold(factorOf(dy));
  const dActivation = scope.hold(productFactor(dOutput, weights.down)); // [N, F]
  if (wants('mlp.down_proj.weight')) {
    emit('mlp.down_proj.weight', productFactor(dOutput, activation, true));
  }
  scope.free(dOutput);
  const { dGate, dUp } = scope.hold(swigluGradient(dActivation, gate, up)); // [N, F] each
  scope.free(dActivation);
  const dInput: tf.Tensor2D = scope.hold(
    tf.tidy(() => tf.add(product(dUp, weights.up), product(dGate, weights.gate))),
  ); // [N, D]
  if (wants('mlp.up_proj.weight')) emit('mlp.up_proj.weight', productFactor(dUp, input, true));
  if (wants('mlp.gate_proj.weight')) emit('mlp.gate_proj.weight', productFactor(dGate, input, true));
  return scope.release(dInput);
}
