/**
 * Randomness as a function: number `i` of the stream with key `k` is a hash of (k, i), so any element
 * can be made alone, in any order, on any machine. Integer arithmetic only, except for normals.
 */

/** Names one stream of random numbers. */
export interface RandomKey {
  readonly low: number; // uint32
  readonly high: number; // uint32
}

/** A well-mixed 32-bit permutation (Wellons' "lowbias32", bias 0.174). */
export function mix32(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}

/**
 * The key of the stream that `labels` name under `seed`. Different labels give unrelated streams;
 * the same labels always give the same one. `derive(seed, 'a', 'b')` differs from `derive(seed, 'ab')`.
 */
export function derive(seed: number, ...labels: readonly (string | number)[]): RandomKey {
  let low = mix32(seed >>> 0);
  let high = mix32((seed >>> 0) ^ 0x9e3779b9);
  const absorb = (word: number): void => {
    low = mix32((low ^ word) >>> 0);
    high = mix32((Math.imul(high, 0x85ebca6b) ^ word ^ low) >>> 0);
  };
  for (const label of labels) {
    if (typeof label === 'number') {
      absorb(0x4e000000);
      absorb(label >>> 0);
      absorb(Math.floor(label / 0x100000000) >>> 0);
    } else {
      absorb(0x53000000 ^ label.length);
      for (let i = 0; i < label.length; i++) absorb(label.charCodeAt(i));
    }
  }
  return { low, high };
}

/** Number `index` of the stream: a uint32. `index` is below 2^32. */
export function randomUint32(key: RandomKey, index: number): number {
  return mix32((mix32((index ^ key.low) >>> 0) + key.high) >>> 0);
}

/** Number `index` of the stream, uniform in [0, 1), a multiple of 2^-32. */
export function randomUniform(key: RandomKey, index: number): number {
  return randomUint32(key, index) / 0x100000000;
}

/** A sign, +1 or -1 (Rademacher). */
export function randomSign(key: RandomKey, index: number): 1 | -1 {
  return randomUint32(key, index) >>> 31 === 0 ? 1 : -1;
}

/** Signs 0 to count - 1 of the stream: `randomSign` of each, three times as fast. */
export function randomSigns({ low, high }: RandomKey, count: number): Float32Array {
  const signs = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    // mix32 twice as in randomUint32, in signed arithmetic: only the top bit is asked for.
    let x = index ^ low;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
    x = ((x ^ (x >>> 15)) + high) | 0;
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
    x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
    signs[index] = ((x ^ (x >>> 15)) >> 31) | 1; // without a branch, which nobody could predict
  }
  return signs;
}

/** A standard normal number (Box-Muller on two uniforms of its own). */
export function randomNormal(key: RandomKey, index: number): number {
  const radius = Math.sqrt(-2 * Math.log(1 - randomUniform(key, 2 * index)));
  return radius * Math.cos(2 * Math.PI * randomUniform(key, 2 * index + 1));
}
