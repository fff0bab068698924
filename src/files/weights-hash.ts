/**
 * The hash that names a set of weights: SHA-256 over, for each tensor in ascending order of its name
 * (by UTF-16 code units, as `<` compares strings), the name in UTF-8, one zero byte, and the tensor's
 * bytes (float32, little-endian, row-major). Equal hashes mean equal weights, wherever they are.
 */
import { createHash } from 'node:crypto';

/** Compares by code units: the order of tensors in the hash and in checkpoint files. */
export function compareNames(a: string, b: string): -1 | 0 | 1 {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Takes the tensors one by one, in ascending order of name, each in as many pieces as convenient. */
export class WeightsHasher {
  readonly #hash = createHash('sha256');
  #name: string | null = null;

  /** Begins the next tensor. */
  begin(name: string): void {
    if (this.#name !== null && compareNames(this.#name, name) >= 0) {
      throw new RangeError(`weights are hashed in order of name: ${name} comes after ${this.#name}`);
    }
    this.#name = name;
    this.#hash.update(name, 'utf8').update('\0');
  }

  /** The next bytes of the tensor begun last. */
  update(bytes: Uint8Array): void {
    this.#hash.update(bytes);
  }

  /** The hash, 32 bytes. Nothing can be added after. */
  digest(): Uint8Array {
    return this.#hash.digest();
  }
}

/** The hash of tensors that are in memory, given in any order. */
export function hashWeights(
  tensors: readonly { readonly name: string; readonly bytes: Uint8Array }[],
): Uint8Array {
  const hasher = new WeightsHasher();
  for (const { name, bytes } of tensors.toSorted((a, b) => compareNames(a.name, b.name))) {
    hasher.begin(name);
    hasher.update(bytes);
  }
  return hasher.digest();
}
