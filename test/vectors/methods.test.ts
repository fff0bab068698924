/**
 * Moment transport and int8, against independent f64 implementations of the published formulas: the
 * cases of methods.json that concern this project so far.
 */
import test from 'ava';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { matrix, multiply, transpose, type Matrix } from '../../src/galore/matrix.ts';
import {
  referenceProject,
  referenceTransport,
  referenceUpdate,
  type ReferenceSlot,
} from '../../src/galore/optimizer/reference.ts';
import { transportMoments } from '../../src/galore/projection/transport.ts';
import type { Side } from '../../src/galore/slot.ts';
import { derive } from '../../src/random.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { tensorOf, tf } from '../galore/tensors.ts';

interface TransportCase {
  readonly name: string;
  readonly method: 'moment-transport';
  readonly inputs: {
    readonly side: Side;
    readonly basis_old: GoldenArray;
    readonly basis_new: GoldenArray;
    readonly exp_avg: GoldenArray;
    readonly exp_avg_sq: GoldenArray;
    readonly completed_steps: number;
    readonly beta1: number;
    readonly beta2: number;
  };
  readonly expected: {
    readonly C: GoldenArray;
    readonly ldadam_exp_avg: GoldenArray;
    readonly ldadam_exp_avg_sq: GoldenArray;
  };
}

interface TrajectoryCase {
  readonly name: string;
  readonly method: 'transport-trajectory';
  readonly inputs: {
    readonly hyper: {
      readonly lr: number;
      readonly scale: number;
      readonly beta1: number;
      readonly beta2: number;
      readonly eps: number;
      readonly weight_decay: number;
    };
    readonly initial_weights: GoldenArray;
    readonly grads: readonly GoldenArray[];
    readonly side: Side;
    readonly refresh_steps: readonly number[];
    readonly bases: readonly GoldenArray[];
  };
  readonly expected: {
    readonly keep_weights: readonly GoldenArray[];
    readonly reset_weights: readonly GoldenArray[];
    readonly ldadam_weights: readonly GoldenArray[];
  };
}

interface QuantizeCase {
  readonly name: string;
  readonly method: 'quantize';
  readonly inputs: { readonly x: GoldenArray; readonly qmax: number; readonly block: number };
  readonly expected: {
    readonly codes: GoldenArray;
    readonly scales: GoldenArray;
    readonly dequantized: GoldenArray;
  };
}

type Case =
  TransportCase | TrajectoryCase | QuantizeCase | { readonly name: string; readonly method: 'other' };

interface Methods {
  readonly tolerance: { readonly default_float32: Tolerance; readonly default_float64: Tolerance };
  readonly cases: readonly Case[];
}

const RULES = { keep: 'keep_weights', reset: 'reset_weights', transport: 'ldadam_weights' } as const;

function matrixOf({ shape, data }: GoldenArray): Matrix {
  const [rows = 1, cols = 1] = shape;
  return matrix(rows, cols, data);
}

function registerTransport(c: TransportCase, tolerance: Methods['tolerance']): void {
  const { side, basis_old, basis_new, exp_avg, exp_avg_sq, completed_steps, beta1, beta2 } = c.inputs;
  const change = { oldBasis: matrixOf(basis_old), newBasis: matrixOf(basis_new), side };
  const moments = { m: matrixOf(exp_avg), v: matrixOf(exp_avg_sq) };
  const { C, ldadam_exp_avg, ldadam_exp_avg_sq } = c.expected;

  test(`${c.name}: the f64 reference transports the moments`, (t) => {
    const overlap = multiply(transpose(change.newBasis), change.oldBasis);
    assertClose(t, overlap.values, C.data, tolerance.default_float64, 'C');
    const moved = referenceTransport(moments, change, 'transport', completed_steps, [beta1, beta2]);
    assertClose(t, moved.m.values, ldadam_exp_avg.data, tolerance.default_float64, 'first moment');
    assertClose(t, moved.v.values, ldadam_exp_avg_sq.data, tolerance.default_float64, 'second moment');
  });

  test(`${c.name}: tensors transport the moments`, (t) => {
    tf.tidy(() => {
      const moved = transportMoments(
        { m: tensorOf(moments.m), v: tensorOf(moments.v) },
        { oldBasis: tensorOf(change.oldBasis), newBasis: tensorOf(change.newBasis), side },
        'transport',
        completed_steps,
        [beta1, beta2],
      );
      assertClose(t, moved.m.dataSync(), ldadam_exp_avg.data, tolerance.default_float32, 'first moment');
      assertClose(t, moved.v.dataSync(), ldadam_exp_avg_sq.data, tolerance.default_float32, 'second moment');
    });
  });
}

function registerTrajectory(c: TrajectoryCase, tolerance: Methods['tolerance']): void {
  const { hyper, initial_weights, grads, side, refresh_steps, bases } = c.inputs;
  for (const rule of ['keep', 'reset', 'transport'] as const) {
    test(`${c.name}: weights with moments under ${rule}`, (t) => {
      let basis = matrixOf(bases[0]!);
      const low = referenceProject(matrixOf(grads[0]!), basis, side);
      let state: ReferenceSlot = {
        weight: matrixOf(initial_weights),
        m: matrix(low.rows, low.cols),
        v: matrix(low.rows, low.cols),
      };
      grads.forEach((grad, i) => {
        const refreshed = refresh_steps.indexOf(i);
        if (refreshed >= 0) {
          const newBasis = matrixOf(bases[refreshed]!);
          const betas = [hyper.beta1, hyper.beta2] as const;
          const change = { oldBasis: basis, newBasis, side };
          state = { ...state, ...referenceTransport(state, change, rule, i, betas) };
          basis = newBasis;
        }
        const r = referenceProject(matrixOf(grad), basis, side);
        state = referenceUpdate(
          state,
          r,
          { basis, side },
          {
    ...OTHER_RULES,
            step: i + 1,
            learningRate: hyper.lr,
            betas: [hyper.beta1, hyper.beta2],
            eps: hyper.eps,
            weightDecay: hyper.weight_decay,
            semantics: 'galore_torch',
            scale: hyper.scale,
          },
        );
        const want = c.expected[RULES[rule]][i]!;
        assertClose(t, state.weight.values, want.data, tolerance.default_float64, `step ${i}`);
      });
    });
  }
}

function registerQuantize(c: QuantizeCase): void {
  const { x } = c.inputs;
  const { codes, scales, dequantized } = c.expected;
  const bytes = new Uint8Array(4 * scales.data.length + codes.data.length);
  bytes.set(new Uint8Array(Float32Array.from(scales.data).buffer));
  bytes.set(new Uint8Array(Int8Array.from(codes.data).buffer), 4 * scales.data.length);

  test(`${c.name}: codes and scales decode to the same numbers`, (t) => {
    t.deepEqual(
      codecFor('int8').decode(bytes, codes.data.length),
      Float32Array.from(dequantized.data).map((value) => value + 0), // -0 becomes 0
    );
  });

  test(`${c.name}: encoding finds the same scales and codes beside or at theirs`, (t) => {
    const ours = codecFor('int8').encode(Float32Array.from(x.data), derive(1));
    t.deepEqual(ours.subarray(0, 4 * scales.data.length), bytes.subarray(0, 4 * scales.data.length));
    const ourCodes = new Int8Array(ours.buffer, 4 * scales.data.length);
    codes.data.forEach((code, i) => t.true(Math.abs(ourCodes[i]! - code) <= 1));
  });
}

if (hasGolden('methods.json')) {
  const { tolerance, cases } = readGolden<Methods>('methods.json');
  for (const c of cases) {
    if (c.method === 'moment-transport') registerTransport(c, tolerance);
    else if (c.method === 'transport-trajectory') registerTrajectory(c, tolerance);
    else if (c.method === 'quantize' && c.inputs.qmax === 127 && c.inputs.block === 256) registerQuantize(c);
  }
} else {
  test('methods.json is not in the folder of vectors given: nothing to compare with', (t) => t.pass());
}
