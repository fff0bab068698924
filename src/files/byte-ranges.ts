/** Which bytes of something have been written: a sorted list of ranges. Pure. */

/** Ranges grow by merging, so bytes written in order keep one range whatever their number. */
export class ByteRanges {
  readonly #ranges: { start: number; end: number }[] = []; // ascending, disjoint, not touching

  /** Notes that bytes `start` to `end` (exclusive) are there. */
  add(start: number, end: number): void {
    if (start >= end) return;
    const ranges = this.#ranges;
    let first = ranges.length;
    while (first > 0 && (ranges[first - 1] as { end: number }).end >= start) first--;
    let last = first;
    let merged = { start, end };
    for (; last < ranges.length; last++) {
      const range = ranges[last] as { start: number; end: number };
      if (range.start > end) break;
      merged = { start: Math.min(merged.start, range.start), end: Math.max(merged.end, range.end) };
    }
    ranges.splice(first, last - first, merged);
  }

  /** The first byte below `total` that is not there; null when all are. */
  firstGap(total: number): number | null {
    const range = this.#ranges[0];
    const covered = range === undefined || range.start > 0 ? 0 : range.end;
    return covered >= total ? null : covered;
  }
}
