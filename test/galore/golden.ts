/** Golden vectors: reading them and comparing with them. test/vectors/README.md says where they come from. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** An array in a vector file, row-major. */
export interface GoldenArray {
  readonly shape: number[];
  readonly data: number[];
}

export interface Tolerance {
  readonly atol: number;
  readonly rtol: number;
}

/** The folder of the vector files: GALORE_VECTORS, or the repository's own. */
export const VECTORS = process.env['GALORE_VECTORS'] ?? join(import.meta.dirname, '../../../test/vectors');

/** Reads a vector file as the type the test expects of it. */
export function readGolden<T>(name: string): T {
  return JSON.parse(readFileSync(join(VECTORS, name), 'utf8')) as T;
}

/** False where a folder from elsewhere lacks the file. */
export function hasGolden(name: string): boolean {
  return existsSync(join(VECTORS, name));
}

/** Largest of |got - want| - (atol + rtol |want|): not above zero when all numbers agree. */
export function excess(got: ArrayLike<number>, want: ArrayLike<number>, { atol, rtol }: Tolerance): number {
  if (got.length !== want.length) return Infinity;
  let largest = -Infinity;
  for (let i = 0; i < got.length; i++) {
    const beyond = Math.abs(got[i]! - want[i]!) - (atol + rtol * Math.abs(want[i]!));
    largest = Math.max(largest, Number.isNaN(beyond) ? Infinity : beyond);
  }
  return largest;
}

/** Asserts |got - want| <= atol + rtol |want| for every number. */
export function assertClose(
  t: ExecutionContext,
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: Tolerance,
  what: string,
): void {
  const beyond = excess(got, want, tolerance);
  t.true(beyond <= 0, `${what}: ${beyond} beyond atol ${tolerance.atol}, rtol ${tolerance.rtol}`);
}
