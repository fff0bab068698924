import test from 'ava';
import { llamaConfigFromFields } from '../src/model/llama-config.ts';
import { contributionBytes, meanContributionBytes } from '../src/protocol/slot-sizes.ts';
import { buildRunShape } from '../src/run-shape.ts';
import { MINIMAL, resolve } from './config/parse.ts';

const MODEL = llamaConfigFromFields({ size: '60m' }, { vocabSize: 32_000, maxPositionEmbeddings: 256 });
const DENSE_BYTES = 4 * 58_073_600;

/** How many times fewer bytes than dense f32, and the ranks of layers and of the head. */
function shapeOf(...settings: readonly string[]) {
  const { slots, sizes } = buildRunShape(resolve(MINIMAL, ...settings), MODEL);
  const rankOf = (part: string): number => slots.find(({ name }) => name.includes(part))?.rank ?? 0;
  return {
    times: DENSE_BYTES / meanContributionBytes(sizes),
    layers: rankOf('o_proj'),
    head: rankOf('lm_head'),
  };
}

test('a rank budget gives the greatest ranks that keep to it, in the proportions of the file', (t) => {
  const proportions = { balanced: 128 / 64, wan: 64 / 39, extreme: 28 / 16 };
  for (const [preset, proportion] of Object.entries(proportions)) {
    for (const budget of [20, 50.5, 100, 300]) {
      const found = shapeOf(`preset=${preset}`, `method.rank_budget=${budget}`);
      t.true(found.times >= budget, `${preset}: ${found.times} of ${budget}`);
      const [layers, head] = [found.layers, found.head];
      t.true(Math.abs(head - proportion * layers) <= 2, `${layers}, ${head}`);
      const groups = `method.param_groups=[{match: [embed_tokens, lm_head], rank: ${head + 1}, scale: 1}]`;
      const more = shapeOf(`preset=${preset}`, `method.rank=${layers + 1}`, groups);
      t.true(more.times < budget, `one more each: ${more.times}`);
    }
  }
});

test('without a budget ranks are those of the file; a mean contribution lies between odd and even ones', (t) => {
  const { layers, head } = shapeOf('preset=wan');
  t.deepEqual([layers, head], [39, 64]);
  const { sizes } = buildRunShape(resolve(MINIMAL, 'preset=wan'), MODEL);
  t.true(meanContributionBytes(sizes) <= contributionBytes(sizes));
  t.true(meanContributionBytes(sizes) > contributionBytes(sizes) / 2);
});

test('a budget that cannot be kept comes to rank 1', (t) => {
  const { layers, times } = shapeOf('method.name=galore', 'method.rank_budget=1000');
  t.is(layers, 1);
  t.true(times < 1000);
});

test('moments travel as f32 where they change too little from one average to the next for bf16', (t) => {
  const codecOf = (...settings: string[]): string | undefined => {
    const config = resolve(MINIMAL, ...settings);
    return buildRunShape(config, MODEL).slots[0]!.averaged?.codec;
  };
  const local = (count: number, second: number): string =>
    `local_steps={count: ${count}, moments: averaged, moment_periods: [1, ${second}]}`;
  const slow = 'optimizer.betas=[0.9, 0.999]';
  // 1 - 0.999^7 is below 1/128, 1 - 0.999^8 above it.
  t.deepEqual([codecOf(local(7, 1), slow), codecOf(local(2, 4), slow)], ['f32', 'bf16']);
  t.is(codecOf(local(2, 1), 'optimizer={name: sgd, momentum: 0.9}'), 'bf16');
  t.is(codecOf('local_steps.count=8'), undefined);
});
