/** The rules straight from their definitions, on plain arrays: one row for each trainer. */

export function plainTrimmedMean(rows: readonly (readonly number[])[], trim: number): number[] {
  return rows[0]!.map((_, i) => {
    const kept = rows
      .map((row) => row[i]!)
      .sort((a, b) => a - b)
      .slice(trim, rows.length - trim);
    return kept.reduce((sum, x) => sum + x, 0) / kept.length;
  });
}

export function plainMedian(rows: readonly (readonly number[])[]): number[] {
  return rows[0]!.map((_, i) => {
    const sorted = rows.map((row) => row[i]!).sort((a, b) => a - b);
    const half = Math.floor(sorted.length / 2);
    return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  });
}

export function plainMean(rows: readonly (readonly number[])[], shares: readonly number[]): number[] {
  const total = shares.reduce((sum, share) => sum + share, 0);
  return rows[0]!.map((_, i) => rows.reduce((sum, row, k) => sum + (shares[k]! / total) * row[i]!, 0));
}

/** Places of the `keep` with the least sum of squared distances to the n - f - 2 nearest others. */
export function plainKrum(rows: readonly (readonly number[])[], f: number, keep: number): number[] {
  const scores = rows.map((row, i) =>
    rows
      .filter((_, j) => j !== i)
      .map((other) => distance(row, other) ** 2)
      .sort((a, b) => a - b)
      .slice(0, rows.length - f - 2)
      .reduce((sum, square) => sum + square, 0),
  );
  const order = rows.map((_, i) => i).sort((a, b) => scores[a]! - scores[b]! || a - b);
  return order.slice(0, keep).sort((a, b) => a - b);
}

/** Algorithm 2 of arXiv 2012.10333 with the start and the radius of centred-clipping.ts. */
export function plainClipping(
  rows: readonly (readonly number[])[],
  shares: readonly number[],
  factor: number,
  iterations: number,
): number[] {
  let centre = plainMedian(rows);
  const far = rows.map((row) => distance(row, centre)).sort((a, b) => a - b);
  const radius = factor * far[Math.floor((far.length - 1) / 2)]!;
  for (let k = 0; k < iterations; k++) {
    const pulled = [...centre];
    rows.forEach((row, i) => {
      const length = distance(row, centre);
      const pull = shares[i]! * (length <= radius ? 1 : radius / length);
      row.forEach((x, at) => (pulled[at]! += pull * (x - centre[at]!)));
    });
    centre = pulled;
  }
  return centre;
}

function distance(a: readonly number[], b: readonly number[]): number {
  return Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0));
}
