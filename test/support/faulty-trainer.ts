/**
 * `galore trainer` in whose memory a bit of one weight flips, once, after the update of step FAULT_STEP. The product
 * has no such thing: this program reaches into the class that holds the weights.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { WeightStore } from '../../src/trainer/model/weights.ts';
import { Replica } from '../../src/trainer/replica.ts';

const faultStep = Number(process.env['FAULT_STEP']);
const { applyUpdate } = Replica.prototype;
let hasFlipped = false;

Replica.prototype.applyUpdate = function (step, learningRate, tensors) {
  applyUpdate.call(this, step, learningRate, tensors);
  if (step !== faultStep || hasFlipped) return;
  hasFlipped = true;
  flipBit(this.weights);
};

function flipBit(weights: WeightStore): void {
  const name = 'model.layers.0.mlp.up_proj.weight';
  const tensor = weights.get(name);
  const values = Float32Array.from(tensor.dataSync());
  new Uint32Array(values.buffer)[5]! ^= 1 << 22; // the largest bit of the fraction
  weights.set(name, tf.tensor(values, tensor.shape));
}

await import('../../src/cli/index.ts');
