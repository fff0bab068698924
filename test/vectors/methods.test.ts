/**
 * Moment transport and linear codes, against independent f64 implementations of the published formulas
 * (methods.json). method-rules.test.ts has the cases of the rules.
 */
import test from 'ava';
import { bf16Above } from '../../src/galore/codec/bf16-number.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { quantiseLinear, restoreLinear } from '../../src/galore/codec/linear.ts';
import { matrix, multiply, transpose, type Matrix } from '../../src/galore/matrix.ts';
import {
  referenceProject,
  referenceTransport,
  referenceUpdate,
  type ReferenceSlot,
} from '../../src/galore/optimizer/reference.ts';
import type { Hyperparameters } from '../../src/galore/optimizer/rule.ts';
import { ruleFor } from '../../src/galore/optimizer/rules.ts';
import type { MomentsRule } from '../../src/galore/projection/transport.ts';
import type { ProjectedSlot, Side } from '../../src/galore/slot.ts';
import { derive } from '../../src/random.ts';
import { OTHER_RULES } from '../galore/apply-update.ts';
import { assertClose, excess, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { runRule } from '../galore/run-rule.ts';
import { tensorOf, tf, type Tensor } from '../galore/tensors.ts';

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
  } & { readonly [P in `${Transport}_exp_avg${'' | '_sq'}`]: GoldenArray };
}

/** The names of the rules that move moments, in the vectors. */
type Transport = 'rotate' | 'ldadam' | 'adarank';

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
    readonly [P in `${'keep' | 'reset' | Transport}_weights`]: readonly GoldenArray[];
  };
  readonly sign_invariant: Readonly<Record<'keep' | 'reset' | Transport, boolean>>;
}

interface QuantizeCase {
  readonly name: string;
  readonly method: 'quantize';
  readonly inputs: {
    readonly x: GoldenArray;
    readonly u?: GoldenArray;
    readonly qmax: number;
    readonly block: number;
  };
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

/** Our rules by their names there. */
const TRANSPORTS = { rotate: 'rotate', ldadam: 'ldadam', adarank: 'adarank' } as const;
const RULES = { keep: 'keep', reset: 'reset', ...TRANSPORTS } as const;

function matrixOf({ shape, data }: GoldenArray): Matrix {
  const [rows = 1, cols = 1] = shape;
  return matrix(rows, cols, data);
}

function registerTransport(c: TransportCase, tolerance: Methods['tolerance']): void {
  const { side, basis_old, basis_new, exp_avg, exp_avg_sq, completed_steps, beta1, beta2 } = c.inputs;
  const change = { oldBasis: matrixOf(basis_old), newBasis: matrixOf(basis_new), side };
  const moments = { m: matrixOf(exp_avg), v: matrixOf(exp_avg_sq) };

  test(`${c.name}: the overlap of the bases`, (t) => {
    const overlap = multiply(transpose(change.newBasis), change.oldBasis);
    assertClose(t, overlap.values, c.expected.C.data, tolerance.default_float64, 'C');
  });

  for (const [name, rule] of Object.entries(TRANSPORTS) as [Transport, MomentsRule][]) {
    const { [`${name}_exp_avg` as const]: first, [`${name}_exp_avg_sq` as const]: second } = c.expected;

    test(`${c.name}: the f64 reference moves the moments by ${rule}`, (t) => {
      const moved = referenceTransport(moments, change, rule, completed_steps, [beta1, beta2]);
      assertClose(t, moved.m.values, first.data, tolerance.default_float64, 'first moment');
      assertClose(t, moved.v.values, second.data, tolerance.default_float64, 'second moment');
    });

    test(`${c.name}: AdamW carries the moments by ${rule}`, (t) => {
      tf.tidy(() => {
        const moved = ruleFor('adamw').carry({
          slot: slotOf([basis_new.shape[0]!, basis_new.shape[0]!], side, basis_new.shape[1]!),
          state: { m: tensorOf(moments.m), v: tensorOf(moments.v) },
          change: { oldBasis: tensorOf(change.oldBasis), newBasis: tensorOf(change.newBasis), side },
          moments: rule,
          completedSteps: completed_steps,
          betas: [beta1, beta2],
        }) as Record<'m' | 'v', Tensor>;
        assertClose(t, moved.m.dataSync(), first.data, tolerance.default_float32, 'first moment');
        assertClose(t, moved.v.dataSync(), second.data, tolerance.default_float32, 'second moment');
      });
    });
  }
}

function slotOf(shape: readonly number[], side: Side, rank: number): ProjectedSlot {
  return { name: 'mlp.weight', shape, index: 0, policy: 'one-sided', rule: 'adamw', side, rank };
}

function trajectoryHyper(hyper: TrajectoryCase['inputs']['hyper'], step: number): Hyperparameters {
  return {
    ...OTHER_RULES,
    step,
    learningRate: hyper.lr,
    betas: [hyper.beta1, hyper.beta2],
    eps: hyper.eps,
    weightDecay: hyper.weight_decay,
    semantics: 'galore_torch',
    scale: hyper.scale,
  };
}

/** The weights of every step, in plain f64. */
function referenceTrajectory(c: TrajectoryCase, bases: readonly Matrix[], rule: MomentsRule): Float64Array[] {
  const { hyper, initial_weights, grads, side, refresh_steps } = c.inputs;
  let basis = bases[0]!;
  const low = referenceProject(matrixOf(grads[0]!), basis, side);
  const zeros = matrix(low.rows, low.cols);
  let state: ReferenceSlot = { weight: matrixOf(initial_weights), m: zeros, v: zeros };
  return grads.map((grad, i) => {
    const refreshed = refresh_steps.indexOf(i);
    if (refreshed >= 0) {
      const change = { oldBasis: basis, newBasis: bases[refreshed]!, side };
      state = { ...state, ...referenceTransport(state, change, rule, i, [hyper.beta1, hyper.beta2]) };
      basis = change.newBasis;
    }
    const r = referenceProject(matrixOf(grad), basis, side);
    state = referenceUpdate(state, r, { basis, side }, trajectoryHyper(hyper, i + 1));
    return state.weight.values;
  });
}

/** The basis with its first column turned round. */
function flipped(basis: Matrix): Matrix {
  const values = basis.values.map((x, i) => (i % basis.cols === 0 ? -x : x));
  return { ...basis, values };
}

function registerTrajectory(c: TrajectoryCase, tolerance: Methods['tolerance']): void {
  const { hyper, initial_weights, grads, side, refresh_steps } = c.inputs;
  const bases = c.inputs.bases.map(matrixOf);
  for (const [name, rule] of Object.entries(RULES) as [keyof typeof RULES, MomentsRule][]) {
    const want = c.expected[`${name}_weights`];

    test(`${c.name}: the f64 reference under ${rule}`, (t) => {
      referenceTrajectory(c, bases, rule).forEach((weights, i) =>
        assertClose(t, weights, want[i]!.data, tolerance.default_float64, `step ${i}`),
      );
    });

    test(`${c.name}: the rule adamw under ${rule}`, (t) => {
      const { weights } = runRule({
        slot: slotOf(initial_weights.shape, side, bases[0]!.cols),
        weights: initial_weights.data,
        gradients: grads.map(({ data }) => data),
        hyper: (step) => trajectoryHyper(hyper, step),
        basis: (step) => bases[refresh_steps.indexOf(step - 1)]?.values,
        moments: rule,
      });
      weights.forEach((got, i) =>
        assertClose(t, got, want[i]!.data, tolerance.default_float32, `step ${i}`),
      );
    });

    test(`${c.name}: the signs of the basis vectors ${c.sign_invariant[name] ? 'do not matter' : 'matter'} under ${rule}`, (t) => {
      const turned = bases.map((basis, i) => (i === 0 ? flipped(basis) : basis));
      const last = referenceTrajectory(c, turned, rule).at(-1)!;
      const beyond = excess(last, want.at(-1)!.data, tolerance.default_float64);
      t.true(c.sign_invariant[name] ? beyond <= 0 : beyond > 1e-5, `${beyond}`);
    });
  }
}

function registerLinear(c: QuantizeCase): void {
  const { x, u, qmax, block } = c.inputs;
  const { codes, scales, dequantized } = c.expected;
  test(`${c.name}: codes, scales and numbers are the same`, (t) => {
    const format = { block, largest: qmax };
    const found = quantiseLinear(Float32Array.from(x.data), format, u && ((i) => u.data[i]!));
    t.deepEqual(found, { codes: Int8Array.from(codes.data), scales: Float32Array.from(scales.data) });
    const numbers = restoreLinear(found, format).map((value) => value + 0); // -0 becomes 0
    t.deepEqual(numbers, Float32Array.from(dequantized.data).map((value) => value + 0));
  });
}

/** The codec with these blocks and codes, and the bytes of the vector's codes and scales in it. */
function registerCodec(c: QuantizeCase, name: 'int8' | 'int4'): void {
  const { x, block } = c.inputs;
  const { codes, scales, dequantized } = c.expected;
  const codec = codecFor(name);
  const count = codes.data.length;
  const bytes = new Uint8Array(codec.encodedBytes(count));
  const scaleBytes = name === 'int8' ? 4 : 2;
  const codesAt = scaleBytes * scales.data.length;
  scales.data.forEach((scale, i) => {
    const full = new Uint8Array(Float32Array.of(name === 'int8' ? scale : bf16Above(scale)).buffer);
    bytes.set(full.subarray(4 - scaleBytes), scaleBytes * i);
  });
  if (name === 'int8') bytes.set(new Uint8Array(Int8Array.from(codes.data).buffer), codesAt);
  else codes.data.forEach((code, i) => (bytes[codesAt + (i >> 1)]! |= (code & 0x0f) << (4 * (i & 1))));

  test(`${c.name}: ${name} decodes them to the same numbers`, (t) => {
    // The scales of int4 are rounded up to bf16; all else is the same.
    const ratio = (i: number): number => {
      const scale = scales.data[Math.floor(i / block)]!;
      return name === 'int8' || scale === 0 ? 1 : bf16Above(scale) / scale;
    };
    codec.decode(bytes, count).forEach((value, i) => {
      const want = dequantized.data[i]! * ratio(i);
      t.true(Math.abs(value - want) <= 1e-6 * Math.abs(want), `number ${i}: ${value}, not ${want}`);
    });
  });

  test(`${c.name}: ${name} finds the same scales, and codes beside or at theirs`, (t) => {
    const ours = codec.encode(Float32Array.from(x.data), derive(1));
    t.deepEqual(ours.subarray(0, codesAt), bytes.subarray(0, codesAt));
    const numbers = codec.decode(ours, count);
    const theirs = codec.decode(bytes, count);
    numbers.forEach((value, i) => {
      const scale = bf16Above(scales.data[Math.floor(i / block)]!);
      t.true(Math.abs(value - theirs[i]!) <= 1.01 * scale, `number ${i}`);
    });
  });
}

if (hasGolden('methods.json')) {
  const { tolerance, cases } = readGolden<Methods>('methods.json');
  for (const c of cases) {
    if (c.method === 'moment-transport') registerTransport(c, tolerance);
    else if (c.method === 'transport-trajectory') registerTrajectory(c, tolerance);
    else if (c.method === 'quantize') {
      registerLinear(c);
      if (c.inputs.qmax === 127 && c.inputs.block === 256) registerCodec(c, 'int8');
      if (c.inputs.qmax === 7 && c.inputs.block === 64) registerCodec(c, 'int4');
    }
  }
} else {
  test('methods.json is not in the folder of vectors given: nothing to compare with', (t) => t.pass());
}
