/**
 * The weighted sum of tensors of which only some rows travel: the rows that any of them has, each summed in f64
 * in the order given, as `encodeSum` sums whole tensors. Plain arrays; no tensors.
 */
import { openRows } from '../rows.ts';
import type { EncodedPart } from './mean.ts';
import { matrixShape, type RowSparseSlot } from '../slot.ts';

export interface RowSum {
  /** Strictly ascending. */
  readonly rows: Uint32Array;
  /** Rounded to f32, `[rows.length, D]`. */
  readonly values: Float32Array;
  /** Before rounding. */
  readonly squaredNorm: number;
}

/** Sums rows; without parts there are none. @throws ProtocolError for a part that `checkRows` refuses */
export function sumRows(slot: RowSparseSlot, parts: readonly EncodedPart[]): RowSum {
  const [, columns] = matrixShape(slot);
  const opened = parts.map(({ bytes, codec }) => openRows(slot, codec.name, bytes));
  const rows = Uint32Array.from(new Set(opened.flatMap((part) => [...part.rows]))).sort();
  const sum = new Float64Array(rows.length * columns);
  parts.forEach(({ codec, weight }, p) => {
    const part = opened[p]!;
    const values = codec.decode(part.numbers, part.rows.length * columns);
    let place = 0;
    part.rows.forEach((row, i) => {
      while (rows[place] !== row) place++;
      for (let j = 0; j < columns; j++) sum[place * columns + j]! += weight * values[i * columns + j]!;
    });
  });
  return { rows, values: Float32Array.from(sum), squaredNorm: sum.reduce((total, x) => total + x * x, 0) };
}
