/**
 * Makes inputs that are nearly right: bytes with a few of them changed, and trees of values with a few of these
 * replaced by what is at the edge of what can be. Pure.
 */
import type { Dice } from './dice.ts';

/** Lengths and counts at which things go wrong, little-endian and as varints. */
const EXTREMES = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 2 ** 53 - 1];
const MAX_LENGTH = 1 << 16;

/** `bytes` with one to four changes; `others` are what may be spliced in. */
export function mutateBytes(bytes: Uint8Array, dice: Dice, others: readonly Uint8Array[] = []): Uint8Array {
  let mutant: Uint8Array = Uint8Array.from(bytes);
  for (let changes = 1 + dice.below(4); changes > 0; changes--) mutant = mutateOnce(mutant, dice, others);
  return mutant.length > MAX_LENGTH && bytes.length <= MAX_LENGTH ? mutant.slice(0, MAX_LENGTH) : mutant;
}

function mutateOnce(bytes: Uint8Array, dice: Dice, others: readonly Uint8Array[]): Uint8Array {
  const at = dice.below(bytes.length + 1);
  const end = at + dice.below(Math.min(64, bytes.length - at + 1));
  switch (dice.below(9)) {
    case 0: // flip a bit
      return change(bytes, at, (byte) => byte ^ (1 << dice.below(8)));
    case 1: // another byte
      return change(bytes, at, () => dice.oneOf([0, 1, 0x7f, 0x80, 0xff, dice.below(256)]));
    case 2: // cut something out
      return join(bytes.subarray(0, at), bytes.subarray(end));
    case 3: // cut short
      return bytes.slice(0, at);
    case 4: // insert
      return join(bytes.subarray(0, at), noise(dice), bytes.subarray(at));
    case 5: // repeat
      return join(bytes.subarray(0, end), bytes.subarray(at, end), bytes.subarray(at));
    case 6: {
      // splice with another
      const other = others.length === 0 ? bytes : dice.oneOf(others);
      return join(bytes.subarray(0, at), other.subarray(dice.below(other.length + 1)));
    }
    case 7: // a fixed-length number at its edge
      return overwrite(bytes, at, littleEndian(dice.oneOf(EXTREMES) + dice.below(3) - 1, dice.oneOf([4, 8])));
    default: // a varint at its edge, in the place of one byte
      return join(bytes.subarray(0, at), varint(dice.oneOf(EXTREMES)), bytes.subarray(at + 1));
  }
}

function noise(dice: Dice): Uint8Array {
  return Uint8Array.from({ length: 1 + dice.below(32) }, () => dice.below(256));
}

function change(bytes: Uint8Array, at: number, by: (byte: number) => number): Uint8Array {
  if (at < bytes.length) bytes[at] = by(bytes[at]!);
  return bytes;
}

function overwrite(bytes: Uint8Array, at: number, by: Uint8Array): Uint8Array {
  bytes.set(by.subarray(0, bytes.length - at), at);
  return bytes;
}

function littleEndian(value: number, length: number): Uint8Array {
  let rest = Math.max(0, value);
  return Uint8Array.from({ length }, () => {
    const byte = rest % 256;
    rest = Math.floor(rest / 256);
    return byte;
  });
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80);
  return Uint8Array.of(...bytes, rest);
}

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(parts));
}

const NUMBERS = [0, -0, 1, -1, 0.5, 255, 256, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53, 1e308, NaN, Infinity];
const STRINGS = [
  '',
  'x',
  'ü',
  '\u0000',
  '__proto__',
  'constructor',
  '-',
  '.',
  '../x',
  'NaN',
  'a'.repeat(300),
];

/** A copy of a tree of objects, lists, texts, numbers and bytes with about one of its values changed. */
export function mutateTree(value: unknown, dice: Dice): unknown {
  const count = countLeaves(value);
  let left = dice.below(count);
  const visit = (node: unknown): unknown => {
    const isHere = left-- === 0;
    if (node instanceof Uint8Array) return isHere ? mutateBytes(node, dice) : node;
    if (Array.isArray(node)) {
      const items = node.map(visit);
      return isHere ? mutateList(items, dice) : items;
    }
    if (typeof node === 'object' && node !== null) {
      const entries = Object.entries(node).map(([name, inner]) => [name, visit(inner)] as const);
      return Object.fromEntries(isHere ? mutateList(entries, dice) : entries);
    }
    return isHere ? mutateLeaf(node, dice) : node;
  };
  return visit(value);
}

function countLeaves(value: unknown): number {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return 1;
  return Object.values(value).reduce<number>((sum, inner) => sum + countLeaves(inner), 1);
}

function mutateList<T>(items: readonly T[], dice: Dice): readonly T[] {
  const at = dice.below(items.length);
  switch (dice.below(4)) {
    case 0:
      return items.filter((_, i) => i !== at);
    case 1:
      return [...items, ...items];
    case 2:
      return [];
    default:
      return items.toReversed();
  }
}

function mutateLeaf(value: unknown, dice: Dice): unknown {
  if (dice.oneIn(4)) return dice.oneOf<unknown>([null, true, {}, [], 1, 'x']);
  if (typeof value === 'number') return dice.oneOf([...NUMBERS, value + 1, value - 1, -value, value * 2]);
  return dice.oneOf(STRINGS);
}
