/** The next factor of a power slot: orthonormal columns that span those of the summed product. */
import { orthonormalise } from './factorise.ts';

/**
 * `[rows, cols]` row-major, rows >= cols. Every trainer makes it from the same bytes and gets the same bits: only
 * + - * / and square roots of f64 in a fixed order.
 */
export function orthonormalFactor(product: Float32Array, rows: number, cols: number): Float32Array {
  return Float32Array.from(orthonormalise(product, rows, cols));
}
