/**
 * Checks on single fields of a decoded message. Pure. Each returns the value or throws a
 * ProtocolError that names the field as docs/protocol.md spells it.
 */
import { ProtocolError } from '../errors.ts';
import { CLOSE_CODES, type CloseReason } from './close-codes.ts';
import { DIGEST_BYTES, MAX_LOSS_SUM, MAX_NAME_LENGTH, MAX_TENSORS, TRAINER_ID_PATTERN } from './limits.ts';

const UINT32_MAX = 0xffffffff;

/** A ProtocolError with the code of `reason`. */
export function protocolError(reason: CloseReason, message: string, cause?: unknown): ProtocolError {
  return new ProtocolError(CLOSE_CODES[reason].code, message, cause === undefined ? undefined : { cause });
}

function malformed(field: string, found: string, allowed: string): ProtocolError {
  return protocolError('MALFORMED_MESSAGE', `${field} is ${found}; allowed: ${allowed}`);
}

/** An integer from `min` to `max`, both included. */
export function checkUint(value: number, field: string, min = 0, max = UINT32_MAX): number {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw malformed(field, String(value), `an integer from ${min} to ${max}`);
  }
  return value;
}

/** A count carried as a double: an integer of at most 2^53 - 1, not negative. */
export function checkCount(value: number, field: string): number {
  return checkUint(value, field, 0, Number.MAX_SAFE_INTEGER);
}

/** A finite number, not negative. */
export function checkAmount(value: number, field: string): number {
  if (!Number.isFinite(value) || value < 0) throw malformed(field, String(value), 'a finite number from 0');
  return value;
}

/** A sum of losses: not beyond all measure. One that is is not malformed but of a training that went wrong. */
export function checkLoss(value: number, field: string, largest = MAX_LOSS_SUM): number {
  if (Number.isFinite(value) && Math.abs(value) <= largest) return value;
  throw protocolError(
    'INVALID_CONTRIBUTION',
    `${field} is ${value}; allowed: a finite number of magnitude ${largest} at most`,
  );
}

/** A text of at most `maxLength` UTF-16 code units. */
export function checkText(value: string, field: string, maxLength: number, minLength = 0): string {
  if (value.length < minLength || value.length > maxLength) {
    throw malformed(field, `${value.length} characters long`, `${minLength} to ${maxLength}`);
  }
  return value;
}

/** A short text. */
export function checkName(value: string, field: string, minLength = 0): string {
  return checkText(value, field, MAX_NAME_LENGTH, minLength);
}

export function checkTrainerId(value: string, field: string): string {
  if (!TRAINER_ID_PATTERN.test(value)) {
    throw malformed(field, JSON.stringify(value.slice(0, 80)), '1 to 64 of A-Z a-z 0-9 . _ -');
  }
  return value;
}

/** A SHA-256, copied. */
export function checkDigest(value: Uint8Array, field: string): Uint8Array {
  return checkBytes(value, field, DIGEST_BYTES);
}

/** A SHA-256 or nothing, copied. */
export function checkOptionalDigest(value: Uint8Array, field: string): Uint8Array {
  return value.length === 0 ? new Uint8Array(0) : checkDigest(value, field);
}

/** Exactly `length` bytes, copied. */
export function checkBytes(value: Uint8Array, field: string, length: number): Uint8Array {
  if (value.length !== length) throw malformed(field, `${value.length} bytes long`, String(length));
  return Uint8Array.from(value);
}

/** At most `maxLength` entries, each passed through `check`. */
export function checkList<In, Out>(
  values: readonly In[],
  field: string,
  maxLength: number,
  check: (value: In, field: string) => Out,
): readonly Out[] {
  if (values.length > maxLength) {
    throw malformed(field, `${values.length} entries long`, `at most ${maxLength}`);
  }
  return values.map((value, index) => check(value, `${field}[${index}]`));
}

/** Distinct slot indices. */
export function checkSlots(values: readonly number[], field: string): readonly number[] {
  const slots = checkList(values, field, MAX_TENSORS, (value, name) =>
    checkUint(value, name, 0, MAX_TENSORS - 1),
  );
  if (new Set(slots).size !== slots.length)
    throw malformed(field, 'a list with a slot twice', 'each slot once');
  return slots;
}

/** The name that stands for an enum's number. */
export function checkEnum<Name extends string>(
  value: number,
  field: string,
  names: Readonly<Record<Name, number>>,
): Name {
  for (const name in names) if (names[name] === value) return name;
  throw malformed(field, String(value), `one of ${Object.values(names).join(', ')}`);
}

/** A message inside a message that must be there. */
export function checkPresent<T>(value: T | null | undefined, field: string): T {
  if (value === null || value === undefined) throw malformed(field, 'absent', 'a message');
  return value;
}

/** The same bytes as a Uint8Array proper, whatever kind of buffer was received. */
export function plainView(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
