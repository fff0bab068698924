/**
 * What lies between two matrix products, from one product's factors to the next one's (product.ts). An engine
 * may register a kernel for each that takes one pass over memory; without it tensor operations do the same.
 * Everything is computed in f32 and what is handed out as a factor is rounded once. Results are new tensors.
 */
import * as tf from '@tensorflow/tfjs-core';
import { factorOf, numbersOf } from '../../galore/product.ts';

interface PassKernel {
  readonly kernelName: string;
  readonly inputNames: readonly [string, ...string[]];
  readonly outputs: number;
}

/** The kernels an engine may register. Inputs and outputs are in the order in which the functions have them. */
export const PASS_KERNELS = {
  crossEntropy: { kernelName: 'GaloreCrossEntropy', inputNames: ['logits', 'labels'], outputs: 3 },
  softmax: { kernelName: 'GaloreSoftmax', inputNames: ['scores', 'mask'], outputs: 2 },
  softmaxGradient: {
    kernelName: 'GaloreSoftmaxGradient',
    inputNames: ['exponentials', 'products', 'delta'],
    outputs: 1,
  },
  swiglu: { kernelName: 'GaloreSwiglu', inputNames: ['gate', 'up'], outputs: 1 },
  swigluGradient: {
    kernelName: 'GaloreSwigluGradient',
    inputNames: ['dActivation', 'gate', 'up'],
    outputs: 2,
  },
  rmsNorm: { kernelName: 'GaloreRmsNorm', inputNames: ['x', 'weight', 'epsilon'], outputs: 2 },
  rmsNormGradient: {
    kernelName: 'GaloreRmsNormGradient',
    inputNames: ['dy', 'x', 'weight', 'inverse'],
    outputs: 2,
  },
} as const satisfies Readonly<Record<string, PassKernel>>;

/** What `crossEntropy` gives. */
export type CrossEntropy = {
  readonly numerators: tf.Tensor2D; // [C, V], a factor
  readonly sums: tf.Tensor2D; // [C, 1]
  readonly losses: tf.Tensor1D; // [C]
};

/** With e = exp(l − max), z = Σ e over a row and its label c: e − z·onehot(c), z, log z − (l_c − max). */
export function crossEntropy(logits: tf.Tensor2D, labels: Int32Array): CrossEntropy {
  return tf.tidy((): CrossEntropy => {
    if (isKnown(PASS_KERNELS.crossEntropy)) {
      const inputs = { logits, labels: tf.tensor1d(labels, 'int32') };
      const [numerators, sums, losses] = run(PASS_KERNELS.crossEntropy, inputs);
      return { numerators, sums, losses } as CrossEntropy;
    }
    const targets = targetsOf(labels);
    const shifted: tf.Tensor2D = tf.tidy(() => {
      const numbers = numbersOf(logits);
      return tf.sub(numbers, tf.max(numbers, -1, true));
    });
    const atTarget = tf.gatherND(shifted, targets); // [C]
    const exponentials: tf.Tensor2D = tf.exp(shifted);
    shifted.dispose();
    const sums = tf.sum<tf.Tensor2D>(exponentials, -1, true);
    const flatSums = tf.squeeze<tf.Tensor1D>(sums, [1]);
    const numerators = tf.tidy(() => {
      const changed = tf.sub(tf.gatherND(exponentials, targets), flatSums);
      return factorOf(tf.tensorScatterUpdate<tf.Rank.R2>(exponentials, targets, changed));
    });
    const losses: tf.Tensor1D = tf.sub(tf.log(flatSums), atTarget);
    return { numerators, sums, losses };
  });
}

/** e = exp(s + mask − row maximum), a factor, and its row sums. */
export function softmaxParts(
  scores: tf.Tensor4D, // [B, K, R, keys], a factor
  mask: tf.Tensor2D | tf.Tensor3D, // [R, keys], or the last dimensions of the scores if there are more
): { exponentials: tf.Tensor4D; sums: tf.Tensor4D } {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.softmax)) {
      const [exponentials, sums] = run(PASS_KERNELS.softmax, { scores, mask });
      return { exponentials: exponentials as tf.Tensor4D, sums: sums as tf.Tensor4D };
    }
    const masked = tf.add(numbersOf(scores), mask);
    const exact: tf.Tensor4D = tf.exp(tf.sub(masked, tf.max(masked, -1, true)));
    return { exponentials: factorOf(exact), sums: tf.sum<tf.Tensor4D>(exact, -1, true) };
  });
}

/** e·(p − δ), a factor. */
export function softmaxGradient(
  exponentials: tf.Tensor4D, // [B, K, R, keys], a factor
  products: tf.Tensor4D, // [B, K, R, keys], a factor
  delta: tf.Tensor4D, // [B, K, R, 1]
): tf.Tensor4D {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.softmaxGradient)) {
      return run(PASS_KERNELS.softmaxGradient, { exponentials, products, delta })[0] as tf.Tensor4D;
    }
    const difference = tf.sub(numbersOf(products), delta);
    return factorOf(tf.mul(numbersOf(exponentials), difference) as tf.Tensor4D);
  });
}

/** silu(g)·u of two factors, a factor. */
export function swiglu(gate: tf.Tensor2D, up: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.swiglu)) return run(PASS_KERNELS.swiglu, { gate, up })[0] as tf.Tensor2D;
    const numbers = numbersOf(gate);
    const silu = tf.mul(numbers, tf.sigmoid(numbers));
    return factorOf(tf.mul(silu, numbersOf(up)) as tf.Tensor2D);
  });
}

/** dg = da·u·silu'(g) and du = da·silu(g), with silu'(g) = σ + silu(g)·(1 − σ); all factors. */
export function swigluGradient(
  dActivation: tf.Tensor2D,
  gate: tf.Tensor2D,
  up: tf.Tensor2D,
): { dGate: tf.Tensor2D; dUp: tf.Tensor2D } {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.swigluGradient)) {
      const [dGate, dUp] = run(PASS_KERNELS.swigluGradient, { dActivation, gate, up });
      return { dGate: dGate as tf.Tensor2D, dUp: dUp as tf.Tensor2D };
    }
    const [da, g] = [numbersOf(dActivation), numbersOf(gate)];
    const sigmoid = tf.sigmoid(g);
    const silu = tf.mul(g, sigmoid);
    const slope = tf.tidy(() => tf.add(sigmoid, tf.mul(silu, tf.sub(1, sigmoid))));
    const dUp = factorOf(tf.mul(da, silu) as tf.Tensor2D);
    silu.dispose();
    const dSilu = tf.tidy(() => tf.mul(da, numbersOf(up)));
    return { dGate: factorOf(tf.mul(dSilu, slope) as tf.Tensor2D), dUp };
  });
}

/** i = 1 / sqrt(mean(x²) + eps) of each row, and x·i·w. */
export function rmsNorm(
  x: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  eps: number,
): { y: tf.Tensor2D; inverse: tf.Tensor2D } {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.rmsNorm)) {
      const [y, inverse] = run(PASS_KERNELS.rmsNorm, { x, weight, epsilon: tf.scalar(eps) });
      return { y: y as tf.Tensor2D, inverse: inverse as tf.Tensor2D };
    }
    const inverse: tf.Tensor2D = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps)); // [N, 1]
    const y: tf.Tensor2D = tf.mul(tf.mul(x, inverse), weight);
    return { y, inverse };
  });
}

/** With x̂ = x·i and g = dy·w: dx = i·(g − x̂·mean(g·x̂)) and dw, the sum over rows of dy·x̂. */
export function rmsNormGradient(
  dy: tf.Tensor2D, // [N, D]
  x: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  inverse: tf.Tensor2D, // [N, 1]
): { dx: tf.Tensor2D; dWeight: tf.Tensor1D } {
  return tf.tidy(() => {
    if (isKnown(PASS_KERNELS.rmsNormGradient)) {
      const [dx, dWeight] = run(PASS_KERNELS.rmsNormGradient, { dy, x, weight, inverse });
      return { dx: dx as tf.Tensor2D, dWeight: dWeight as tf.Tensor1D };
    }
    const unit = tf.mul(x, inverse); // [N, D], x̂
    const [dWeight, along] = tf.tidy(() => {
      const product = tf.mul(dy, unit); // [N, D]
      return [tf.sum(product, 0), tf.mean(tf.mul(product, weight), -1, true)];
    }) as [tf.Tensor1D, tf.Tensor2D]; // [D], [N, 1]
    const difference = tf.tidy(() => tf.sub(tf.mul(dy, weight), tf.mul(unit, along)));
    const dx: tf.Tensor2D = tf.mul(difference, inverse);
    return { dx, dWeight };
  });
}

/** x̂ = (x − mean) / sqrt(variance + eps) of each row, i = 1 / sqrt(variance + eps), and y = x̂·w + b. */
export function layerNorm(
  x: tf.Tensor2D, // [N, D]
  weight: tf.Tensor1D, // [D]
  bias: tf.Tensor1D, // [D]
  eps: number,
): { y: tf.Tensor2D; unit: tf.Tensor2D; inverse: tf.Tensor2D } {
  return tf.tidy(() => {
    const centred: tf.Tensor2D = tf.tidy(() => tf.sub(x, tf.mean(x, -1, true)));
    const inverse: tf.Tensor2D = tf.tidy(() => tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), eps)));
    const unit: tf.Tensor2D = tf.mul(centred, inverse);
    const y: tf.Tensor2D = tf.tidy(() => tf.add(tf.mul(unit, weight), bias));
    return { y, unit, inverse };
  });
}

/** With g = dy·w: dx = i·(g − mean(g) − x̂·mean(g·x̂)), dw and db, the sums over rows of dy·x̂ and of dy. */
export function layerNormGradient(
  dy: tf.Tensor2D, // [N, D]
  unit: tf.Tensor2D, // [N, D], x̂
  weight: tf.Tensor1D, // [D]
  inverse: tf.Tensor2D, // [N, 1]
): { dx: tf.Tensor2D; dWeight: tf.Tensor1D; dBias: tf.Tensor1D } {
  return tf.tidy(() => {
    const g = tf.mul(dy, weight); // [N, D]
    const [dWeight, along] = tf.tidy(() => {
      const product = tf.mul(dy, unit); // [N, D]
      return [tf.sum(product, 0), tf.mean(tf.mul(product, weight), -1, true)];
    }) as [tf.Tensor1D, tf.Tensor2D]; // [D], [N, 1]
    const difference = tf.tidy(() => tf.sub(tf.sub(g, tf.mean(g, -1, true)), tf.mul(unit, along)));
    g.dispose();
    return { dx: tf.mul(difference, inverse) as tf.Tensor2D, dWeight, dBias: tf.sum<tf.Tensor1D>(dy, 0) };
  });
}

/** gelu(x + b), a factor, with gelu(h) = h·Φ(h) and Φ(h) = (1 + erf(h/√2)) / 2. */
export function gelu(
  x: tf.Tensor2D, // [N, F], a factor
  bias: tf.Tensor1D, // [F]
): tf.Tensor2D {
  return tf.tidy(() => {
    const h = tf.add(numbersOf(x), bias);
    const half = tf.tidy(() => tf.mul(h, 0.5));
    const error = tf.tidy(() => tf.erf(tf.mul(h, Math.SQRT1_2)));
    h.dispose();
    return factorOf(tf.add(tf.mul(half, error), half) as tf.Tensor2D);
  });
}

/** dx = da·(Φ(h) + h·φ(h)) with h = x + b and φ the density of the normal distribution; not a factor. */
export function geluGradient(
  dActivation: tf.Tensor2D, // [N, F], a factor
  x: tf.Tensor2D, // [N, F], a factor
  bias: tf.Tensor1D, // [F]
): tf.Tensor2D {
  return tf.tidy(() => {
    const h = tf.add(numbersOf(x), bias);
    const below = tf.tidy(() => tf.mul(tf.add(tf.erf(tf.mul(h, Math.SQRT1_2)), 1), 0.5)); // Φ(h)
    const density = tf.tidy(() => tf.mul(tf.exp(tf.mul(tf.square(h), -0.5)), 1 / Math.sqrt(2 * Math.PI)));
    const slope = tf.tidy(() => tf.add(below, tf.mul(h, density)));
    tf.dispose([h, below, density]);
    return tf.mul(numbersOf(dActivation), slope);
  });
}

/** Where the labels stand in the logits: [row, label] for each row. */
function targetsOf(labels: Int32Array): tf.Tensor2D {
  const indices = new Int32Array(2 * labels.length);
  labels.forEach((label, row) => {
    indices[2 * row] = row;
    indices[2 * row + 1] = label;
  });
  return tf.tensor2d(indices, [labels.length, 2], 'int32');
}

function isKnown({ kernelName }: PassKernel): boolean {
  return tf.getKernel(kernelName, tf.getBackend()) !== undefined;
}

function run({ kernelName }: PassKernel, inputs: tf.NamedTensorMap): tf.Tensor[] {
  return tf.engine().runKernel(kernelName, inputs) as tf.Tensor[];
}
