/** The information threshold, against an independent f64 implementation: from exact and from sketched energies. */
import test from 'ava';
import { matrix, multiply, transpose, zip, type Matrix } from '../../src/galore/matrix.ts';
import { leadingBasis, orthonormalise } from '../../src/galore/projection/factorise.ts';
import { selectRank } from '../../src/galore/projection/rank-selection.ts';
import { assertClose, hasGolden, readGolden, type GoldenArray, type Tolerance } from '../galore/golden.ts';
import { squaredNorm } from '../galore/matrices.ts';

interface ThresholdCase {
  readonly name: string;
  readonly method: 'info-threshold';
  readonly inputs: { readonly G: GoldenArray };
  readonly expected: {
    readonly singular_values: GoldenArray;
    readonly answers: readonly {
      readonly eta: number;
      readonly r_min: number;
      readonly r_max: number;
      readonly rank: number;
      readonly threshold_met: boolean;
    }[];
  };
}

interface SketchCase {
  readonly name: string;
  readonly method: 'sketch-energy';
  readonly inputs: {
    readonly G: GoldenArray;
    readonly Omega: GoldenArray;
    readonly Omega_probe: GoldenArray;
    readonly etas: readonly number[];
  };
  readonly expected: {
    readonly sketch_singular_values: GoldenArray;
    readonly energy_estimate: number;
    readonly tail_ratio: GoldenArray;
    readonly ranks: GoldenArray;
  };
}

interface RankSelection {
  readonly tolerance: { readonly default_float32: Tolerance };
  readonly cases: readonly (ThresholdCase | SketchCase | { readonly method: 'of another test' })[];
}

function matrixOf({ shape, data }: GoldenArray): Matrix {
  const [rows = 1, cols = 1] = shape;
  return matrix(rows, cols, data);
}

function registerThreshold({ name, inputs, expected }: ThresholdCase, tolerance: Tolerance): void {
  test(`${name}: the same ranks from the exact singular values`, (t) => {
    const g = matrixOf(inputs.G);
    const { singularValues } = leadingBasis(g.values, g.rows, g.cols, Math.min(g.rows, g.cols))!;
    assertClose(t, singularValues, expected.singular_values.data, tolerance, 'singular values');
    const energies = singularValues.map((s) => s * s);
    for (const { eta, r_min, r_max, rank, threshold_met } of expected.answers) {
      const options = { threshold: eta, minRank: r_min, maxRank: r_max, multiple: 1 };
      t.like(selectRank(energies, 0, options), { rank, isThresholdMet: threshold_met });
    }
  });
}

function registerSketch({ name, inputs, expected }: SketchCase, tolerance: Tolerance): void {
  test(`${name}: the same energy and ranks from a sketch and its probes`, (t) => {
    const g = matrixOf(inputs.G);
    const y = multiply(g, matrixOf(inputs.Omega));
    const q = matrix(y.rows, y.cols, orthonormalise(y.values, y.rows, y.cols));
    const small = multiply(transpose(q), g);
    const { singularValues } = leadingBasis(small.values, small.rows, small.cols, small.rows)!;
    assertClose(t, singularValues, expected.sketch_singular_values.data, tolerance, 'singular values');
    const probes = multiply(g, matrixOf(inputs.Omega_probe));
    const rest = zip((x, seen) => x - seen, probes, multiply(q, multiply(transpose(q), probes)));
    const restEnergy = squaredNorm(rest) / probes.cols;
    const energies = singularValues.map((s) => s * s);
    const total = energies.reduce((sum, energy) => sum + energy, restEnergy);
    assertClose(t, [total], [expected.energy_estimate], tolerance, 'energy');
    inputs.etas.forEach((eta, i) => {
      const options = { threshold: eta, minRank: 1, maxRank: energies.length, multiple: 1 };
      const { rank, residualShare } = selectRank(energies, restEnergy, options);
      t.is(rank, expected.ranks.data[i]!);
      assertClose(t, [residualShare], [expected.tail_ratio.data[rank]!], tolerance, `rest at eta ${eta}`);
    });
  });
}

const { tolerance, cases } = hasGolden('methods.json')
  ? readGolden<RankSelection>('methods.json')
  : { tolerance: { default_float32: { atol: 0, rtol: 0 } }, cases: [] };
for (const c of cases) {
  if (c.method === 'info-threshold') registerThreshold(c, tolerance.default_float32);
  if (c.method === 'sketch-energy') registerSketch(c, tolerance.default_float32);
}
if (!cases.some(({ method }) => method === 'info-threshold' || method === 'sketch-energy')) {
  test('the folder of vectors given has no rank selection: nothing to compare with', (t) => t.pass());
}
