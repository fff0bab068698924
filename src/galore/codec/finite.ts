/** Numbers that cannot be sent: NaN and infinities; and those that are taken from nobody, for they are beyond all measure. */
import { NotFiniteError, ProtocolError } from '../../errors.ts';
import { CLOSE_CODES } from '../../protocol/close-codes.ts';
import { MAX_MAGNITUDE } from '../../protocol/limits.ts';

/** Bits of a magnitude from which on it is NaN or infinity. */
export const INFINITY_BITS = 0x7f800000;

/** Bits of MAX_MAGNITUDE as an f32. */
export const MAX_MAGNITUDE_BITS = new Uint32Array(Float32Array.of(MAX_MAGNITUDE).buffer)[0]!;

const EXPONENT_BITS = INFINITY_BITS; // all set: NaN or infinity

/** The error for the first number of `values` that is not finite; they are `start` and those after it, of `count`. */
export function notFinite(values: Float32Array, start = 0, count = values.length): NotFiniteError {
  const index = findNotFinite(values);
  return new NotFiniteError(
    `number ${start + index} of ${count} is ${values[index]}: the training has diverged; ` +
      'start it anew with a smaller optimizer.lr',
  );
}

/** Index of the first NaN or infinity, or -1. */
export function findNotFinite(values: Float32Array): number {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & EXPONENT_BITS) === EXPONENT_BITS) return i;
  }
  return -1;
}

/** The error for a number that is finite and yet beyond MAX_MAGNITUDE. */
export function tooLarge(what: string, value: number): ProtocolError {
  return new ProtocolError(
    CLOSE_CODES.INVALID_CONTRIBUTION.code,
    `${what} is ${value}; allowed: a magnitude of at most ${MAX_MAGNITUDE}`,
  );
}
