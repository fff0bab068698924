/** Which keys a query may look at, as numbers to add to the scores. */

/** Rows of the mask for `group` query heads in turn, `length` queries each, after `offset` earlier keys. */
export interface CausalMask {
  readonly shape: [number, number]; // [G·S, offset + S]
  readonly values: Float32Array;
}

/** 0 for keys at or before the query's own position, −∞ for later ones. */
export function causalMask(group: number, offset: number, length: number): CausalMask {
  const keys = offset + length;
  const values = new Float32Array(group * length * keys);
  for (let row = 0; row < group * length; row++) {
    const visible = offset + (row % length) + 1;
    values.fill(-Infinity, row * keys + visible, (row + 1) * keys);
  }
  return { shape: [group * length, keys], values };
}
