/** What the coordinator asks of a basis or factor that a trainer has made, without factorising itself. */
import { randomSign, type RandomKey } from '../../random.ts';

/** |P'Pz - z| / |z| that f32 bases stay far below (about 1e-6) and damaged ones exceed. */
export const BASIS_TOLERANCE = 1e-4;

/** The same for the factors between rounds, which only have to be far from dependent: their makers keep to 0.03. */
export const FACTOR_TOLERANCE = 0.1;

const PROBES = 2;

/**
 * Checks that a `[rows, cols]` row-major matrix is finite and has orthonormal columns, by random
 * vectors of signs z: |P'Pz - z| <= tolerance |z|. The key must be one that the maker could not know.
 * Costs 4 rows cols multiplications a probe.
 * @returns why it is refused, with numbers, or null.
 */
export function checkBasis(
  basis: Float32Array,
  rows: number,
  cols: number,
  key: RandomKey,
  tolerance: number = BASIS_TOLERANCE,
): string | null {
  if (basis.length !== rows * cols) {
    return `it has ${basis.length} elements, not ${rows} x ${cols} = ${rows * cols}`;
  }
  if (cols > rows) return `${cols} columns of ${rows} elements cannot be orthonormal`;
  for (let i = 0; i < basis.length; i++) {
    if (!Number.isFinite(basis[i])) {
      return `element [${Math.floor(i / cols)}, ${i % cols}] is ${String(basis[i])}`;
    }
  }
  for (let probe = 0; probe < PROBES; probe++) {
    const deviation = orthonormalityDeviation(basis, rows, cols, key, probe);
    if (!(deviation <= tolerance)) {
      return (
        `its columns are not orthonormal: |P'Pz - z| / |z| is ${deviation.toExponential(2)} ` +
        `for a random z, above ${tolerance.toExponential(2)}`
      );
    }
  }
  return null;
}

function orthonormalityDeviation(
  basis: Float32Array,
  rows: number,
  cols: number,
  key: RandomKey,
  probe: number,
): number {
  const z = Float64Array.from({ length: cols }, (_, j) => randomSign(key, probe * cols + j));
  const back = new Float64Array(cols); // P'Pz
  for (let i = 0; i < rows; i++) {
    const offset = i * cols;
    let dot = 0;
    for (let j = 0; j < cols; j++) dot += basis[offset + j]! * z[j]!;
    for (let j = 0; j < cols; j++) back[j] = back[j]! + basis[offset + j]! * dot;
  }
  let squared = 0;
  for (let j = 0; j < cols; j++) squared += (back[j]! - z[j]!) ** 2;
  return Math.sqrt(squared / Math.max(1, cols));
}
