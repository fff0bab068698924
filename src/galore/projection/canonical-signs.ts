/** Singular vectors are unique but for their signs; everybody picks the same ones. See docs/protocol.md, "Bases". */

/**
 * Flips columns of a row-major `[rows, cols]` matrix, in place, so that in each the entry of largest magnitude
 * (the first of equal ones) is positive. The columns of `partner` (same number of columns), the other
 * vectors of the pairs, are flipped along.
 */
export function canonicalSigns(
  columns: Float32Array,
  rows: number,
  cols: number,
  partner: Float32Array | null = null,
): void {
  const largest = new Float32Array(cols);
  for (let i = 0; i < rows; i++) {
    const offset = i * cols;
    for (let j = 0; j < cols; j++) {
      const value = columns[offset + j]!;
      if (Math.abs(value) > Math.abs(largest[j]!)) largest[j] = value;
    }
  }
  for (const matrix of partner === null ? [columns] : [columns, partner]) {
    for (let i = 0; i < matrix.length; i += cols) {
      for (let j = 0; j < cols; j++) if (largest[j]! < 0) matrix[i + j] = -matrix[i + j]!;
    }
  }
}
