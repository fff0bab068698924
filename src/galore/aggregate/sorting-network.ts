/**
 * Sorting networks for any number of inputs: merge exchange (Batcher; Knuth, The Art of Computer Programming 3, 5.2.2,
 * Algorithm M), without the comparators that do not matter when only some places of the order are asked for. Pure.
 */

/** Puts the smaller of two places in the first and the larger in the second, or only one of them if the other is not read. */
export interface Comparator {
  readonly first: number;
  readonly second: number;
  readonly keepsFirst: boolean;
  readonly keepsSecond: boolean;
}

/** Comparators that bring the places `from` to `to` (not included) of the ascending order of `count` inputs to where they belong. */
export function sortingNetwork(count: number, from = 0, to = count): readonly Comparator[] {
  const isRead = Array.from({ length: count }, (_, place) => place >= from && place < to);
  const network: Comparator[] = [];
  for (const [first, second] of mergeExchange(count).toReversed()) {
    const [keepsFirst, keepsSecond] = [isRead[first]!, isRead[second]!];
    if (!keepsFirst && !keepsSecond) continue;
    isRead[first] = isRead[second] = true;
    network.push({ first, second, keepsFirst, keepsSecond });
  }
  return network.toReversed();
}

function mergeExchange(count: number): (readonly [number, number])[] {
  const pairs: (readonly [number, number])[] = [];
  const top = 2 ** (Math.ceil(Math.log2(Math.max(2, count))) - 1);
  for (let p = top; p >= 1; p /= 2) {
    let [rest, distance] = [0, p];
    for (let q = top; ; q /= 2) {
      for (let i = 0; i + distance < count; i++) if ((i & p) === rest) pairs.push([i, i + distance]);
      if (q === p) break;
      [distance, rest] = [q - p, p];
    }
  }
  return pairs;
}
