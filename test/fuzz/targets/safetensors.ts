/** Headers of safetensors files, which people download from anywhere. */
import { DataError } from '../../../src/errors.ts';
import {
  buildHeader,
  parseHeader,
  parseHeaderLength,
  PREFIX_BYTES,
} from '../../../src/files/safetensors-header.ts';
import { join, mutateBytes, mutateTree } from '../mutate.ts';
import { Broken, type FuzzTarget } from '../target.ts';

const FILE = 'model.safetensors';
const { bytes: HEADER, dataBytes: DATA_BYTES } = buildHeader(
  [
    { name: 'a', shape: [4, 3] },
    { name: 'b.weight', shape: [] },
    { name: 'c', dtype: 'BF16', shape: [2, 2, 2] },
  ],
  { format: 'pt' },
);

function fileOf(json: Uint8Array): Uint8Array {
  const prefix = new Uint8Array(PREFIX_BYTES);
  new DataView(prefix.buffer).setUint32(0, json.length, true);
  return join(prefix, json, new Uint8Array(DATA_BYTES));
}

export function safetensorsTarget(): FuzzTarget {
  const whole = join(HEADER, new Uint8Array(DATA_BYTES));
  const tree: unknown = JSON.parse(Buffer.from(HEADER.subarray(PREFIX_BYTES)).toString('utf8'));
  return {
    name: 'safetensors',
    refusals: [DataError],
    generate(dice) {
      if (dice.oneIn(3)) return mutateBytes(whole, dice, [whole]);
      const json = Buffer.from(JSON.stringify(mutateTree(tree, dice)) ?? '', 'utf8');
      return fileOf(dice.oneIn(3) ? mutateBytes(json, dice) : json);
    },
    decode(input) {
      const length = parseHeaderLength(FILE, input.subarray(0, PREFIX_BYTES), input.length);
      const data = input.length - PREFIX_BYTES - length;
      const { tensors } = parseHeader(FILE, input.subarray(PREFIX_BYTES, PREFIX_BYTES + length), data);
      for (const [name, { start, end }] of tensors) {
        if (!(start >= 0 && start <= end && end <= data))
          throw new Broken(`${name} lies outside of the file`);
      }
    },
  };
}
