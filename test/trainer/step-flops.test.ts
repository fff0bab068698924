import test from 'ava';
import { buildSlots } from '../../src/galore/slot.ts';
import { llamaTensors } from '../../src/model/llama-config.ts';
import { stepFlops } from '../../src/trainer/step-flops.ts';
import { slotOptions } from '../helpers/slot-options.ts';
import { tinyConfig } from '../helpers/tiny-llama.ts';

// Two sequences of 5 tokens: 10 rows. Each of two layers: q, o 16 x 16, k, v 8 x 16, gate, up 24 x 16 and
// down 16 x 24 are 512 + 256 + 1152 = 1920 numbers; 4 heads of 4. The head is 19 x 16 = 304.
const PRODUCTS = 6 * 10 * (2 * 1920 + 304) + 2 * 12 * 10 * 5 * 16;

test('the products of a step are counted from the shapes', (t) => {
  const config = tinyConfig();
  const slots = buildSlots(llamaTensors(config), slotOptions('full', 1));
  t.is(stepFlops(config, slots, 2, 5), PRODUCTS);
});

test('projection and lift count for projected matrices, and a tied head counts as one of its own', (t) => {
  const config = tinyConfig({ tieWordEmbeddings: true });
  const slots = buildSlots(llamaTensors(config), slotOptions('galore', 4));
  t.is(stepFlops(config, slots, 2, 5), PRODUCTS + 4 * 4 * 2 * 1920);
});
