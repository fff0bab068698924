/** Some of the sequences of an assignment, for one of the trainers that share it. Pure. */
import type { Sequences } from '../protocol/messages.ts';

/** Those at these places of the list, in this order, in memory of their own. */
export function selectSequences(sequences: Sequences, places: readonly number[]): Sequences {
  const { positions, length, tokens, mask, labelled } = sequences;
  const rowsOf = <T extends Int32Array | Uint8Array>(source: T, width: number, target: T): T => {
    places.forEach((place, row) =>
      target.set(source.subarray(place * width, (place + 1) * width), row * width),
    );
    return target;
  };
  return {
    positions: places.map((place) => positions[place]!),
    length,
    tokens: rowsOf(tokens, length, new Int32Array(places.length * length)),
    mask: mask.length === 0 ? mask : rowsOf(mask, length - 1, new Uint8Array(places.length * (length - 1))),
    ...(labelled === undefined
      ? {}
      : {
          labelled: {
            classes: Int32Array.from(places, (place) => labelled.classes[place]!),
            lengths: Int32Array.from(places, (place) => labelled.lengths[place]!),
          },
        }),
  };
}
