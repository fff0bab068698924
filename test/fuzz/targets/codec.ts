/** Payloads of contributions: int8, int4, bf16, f32 and rows, as staging checks them and the sums read them. */
import { ProtocolError } from '../../../src/errors.ts';
import { squaredNormOfSum } from '../../../src/galore/aggregate/mean.ts';
import { sumRows } from '../../../src/galore/aggregate/sum-rows.ts';
import { CODEC_NAMES, codecFor } from '../../../src/galore/codec/codec.ts';
import { checkRows, encodeRows, rowsIn, scatterRows } from '../../../src/galore/rows.ts';
import type { RowSparseSlot } from '../../../src/galore/slot.ts';
import { MAX_MAGNITUDE } from '../../../src/protocol/limits.ts';
import { derive, randomNormal } from '../../../src/random.ts';
import { join, mutateBytes } from '../mutate.ts';
import { Broken, type FuzzTarget } from '../target.ts';

const KEY = derive(1, 'fuzz');
const SLOT: RowSparseSlot = {
  name: 'rows',
  shape: [40, 8],
  index: 0,
  policy: 'row-sparse',
  rule: 'adamw',
  mostRows: 24,
};

/**
 * An input: the number of a codec and a bit for rows, a count of numbers (u16), then the payload. The count is what
 * the receiver knows of the slot, so it is within reason.
 */
export function codecTarget(): FuzzTarget {
  const seeds = CODEC_NAMES.flatMap((name, number) => {
    const plain = [1, 255, 256, 257, 700].map((count) => {
      const values = Float32Array.from({ length: count }, (_, i) => 0.01 * randomNormal(KEY, i));
      return join(Uint8Array.of(number, count & 0xff, count >> 8), codecFor(name).encode(values, KEY));
    });
    const rows = Uint32Array.of(0, 3, 39);
    const values = new Float32Array(3 * 8).fill(0.5);
    return [...plain, join(Uint8Array.of(number | 4, 0, 0), encodeRows(name, rows, values, KEY))];
  });
  return {
    name: 'codec',
    refusals: [ProtocolError],
    generate(dice) {
      const seed = dice.oneOf(seeds);
      const payload = mutateBytes(seed.subarray(3), dice, seeds);
      return join(seed.subarray(0, 3), payload);
    },
    decode(input) {
      const codec = codecFor(CODEC_NAMES[(input[0] ?? 0) & 3]!);
      const bytes = input.subarray(3);
      if (((input[0] ?? 0) & 4) !== 0) {
        rowsIn(SLOT, codec.name, bytes.length);
        checkRows(SLOT, codec.name, bytes);
        const { squaredNorm } = sumRows(SLOT, [{ bytes, codec, weight: 0.5 }]);
        checkNumbers(scatterRows(SLOT, codec.name, bytes, new Float32Array(40 * 8)), squaredNorm);
        return;
      }
      const count = (input[1] ?? 0) + 256 * (input[2] ?? 0);
      codec.check(bytes, count);
      checkNumbers(codec.decode(bytes, count), squaredNormOfSum([{ bytes, codec, weight: 0.5 }], count));
    },
  };
}

/** What was checked can be summed. */
function checkNumbers(values: Float32Array, squaredNorm: number): void {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (!(largest <= 1.01 * MAX_MAGNITUDE)) throw new Broken(`a number of ${largest} was accepted`);
  if (!Number.isFinite(squaredNorm)) throw new Broken(`numbers with a norm of ${squaredNorm} were accepted`);
}
