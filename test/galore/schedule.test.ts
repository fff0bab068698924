import test from 'ava';
import fc from 'fast-check';
import { learningRate, type ScheduleOptions } from '../../src/galore/schedule.ts';

function options(schedule: Partial<ScheduleOptions['schedule']>): ScheduleOptions {
  return { lr: 0.01, schedule: { type: 'constant', warmup_steps: 0, min_lr_ratio: 0.1, ...schedule } };
}

test('constant without warm-up is lr at every step', (t) => {
  for (const index of [0, 1, 500, 10_000]) t.is(learningRate(options({}), index, 1000), 0.01);
});

test('warm-up rises by lr / warmup_steps a step and reaches lr at index warmup_steps', (t) => {
  const rates = [0, 1, 2, 3, 4, 5].map((i) => learningRate(options({ warmup_steps: 4 }), i, 100));
  // Index 0 would be 0 in Hugging Face's schedule; it takes the rate of index 1.
  t.deepEqual(rates, [0.0025, 0.0025, 0.005, 0.0075, 0.01, 0.01]);
});

test('cosine goes from lr through the middle to min_lr_ratio', (t) => {
  const cosine = options({ type: 'cosine', warmup_steps: 10 });
  t.is(learningRate(cosine, 10, 110), 0.01);
  t.true(Math.abs(learningRate(cosine, 60, 110) - 0.0055) < 1e-12); // cos(pi/2) = 0: (0.1 + 0.9 / 2) lr
  t.true(Math.abs(learningRate(cosine, 35, 110) - 0.01 * (0.1 + 0.45 * (1 + Math.SQRT1_2))) < 1e-12);
  t.true(Math.abs(learningRate(cosine, 110, 110) - 0.001) < 1e-12);
  t.true(Math.abs(learningRate(cosine, 500, 110) - 0.001) < 1e-12);
});

test('linear goes straight from lr to min_lr_ratio', (t) => {
  const linear = options({ type: 'linear', min_lr_ratio: 0 });
  t.is(learningRate(linear, 0, 4), 0.01);
  t.true(Math.abs(learningRate(linear, 1, 4) - 0.0075) < 1e-15);
  t.is(learningRate(linear, 4, 4), 0);
});

test('wsd warms up, stays at lr and falls linearly in the last decay_steps', (t) => {
  const wsd = options({ type: 'wsd', warmup_steps: 2, decay_steps: 4, min_lr_ratio: 0.2 });
  const rates = Array.from({ length: 12 }, (_, i) => learningRate(wsd, i, 12));
  // 12 - i steps are left: from index 8 on lr (0.2 + 0.8 left / 4), which reaches 0.2 lr at index 12.
  const want = [0.005, 0.005, ...new Array<number>(7).fill(0.01), 0.008, 0.006, 0.004];
  rates.forEach((rate, i) => t.true(Math.abs(rate - want[i]!) < 1e-15, `index ${i}: ${rate}`));
  t.true(Math.abs(learningRate(wsd, 12, 12) - 0.002) < 1e-15);
  t.true(Math.abs(learningRate(wsd, 500, 12) - 0.002) < 1e-15);
});

test('wsd decays over the last tenth of the run by default, over one step at least', (t) => {
  const wsd = options({ type: 'wsd', min_lr_ratio: 0 });
  t.is(learningRate(wsd, 90, 100), 0.01);
  t.true(Math.abs(learningRate(wsd, 95, 100) - 0.005) < 1e-15);
  t.is(learningRate(wsd, 2, 3), 0.01); // a tenth of 3 is no step; the last one is still trained
  t.is(learningRate(wsd, 3, 3), 0);
});

test('a decay as long as the run begins at once, after the warm-up', (t) => {
  const wsd = options({ type: 'wsd', warmup_steps: 1, decay_steps: 50, min_lr_ratio: 0 });
  t.is(learningRate(wsd, 0, 10), 0.01);
  t.true(Math.abs(learningRate(wsd, 1, 10) - 0.01 * (9 / 50)) < 1e-15);
});

test('the rate is above zero at the first step, never above lr, and falls after the warm-up', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom('constant', 'linear', 'cosine', 'wsd'),
      fc.integer({ min: 0, max: 50 }),
      fc.integer({ min: 1, max: 200 }),
      (type, warmup, total) => {
        const schedule = options({ type, warmup_steps: warmup });
        const rates = Array.from({ length: total }, (_, i) => learningRate(schedule, i, total));
        const afterWarmup = rates.slice(warmup);
        return (
          rates.every((rate) => rate > 0 && rate <= 0.01) &&
          afterWarmup.every((rate, i) => i === 0 || rate <= afterWarmup[i - 1]!)
        );
      },
    ),
  );
  t.pass();
});

test('after every restart the rate rises to where the schedule is by then', (t) => {
  // ReLoRA's cosine_restarts, first warm-up 2, restarts every 10 of 40 steps, warm-up 4 after each.
  const cosine = options({ type: 'cosine', warmup_steps: 2, min_lr_ratio: 0 });
  const restarts = { every: 10, warmupSteps: 4 };
  const at = (index: number): number => learningRate(cosine, index, 40, restarts);
  const plain = (index: number): number => learningRate(cosine, index, 40);
  for (const index of [0, 1, 2, 5, 9, 14, 19, 24, 29, 39]) t.is(at(index), plain(index), `index ${index}`);
  for (const start of [10, 20, 30]) {
    const risen = plain(start + 4);
    const want = [1, 1, 2, 3].map((since) => (risen * since) / 4); // the first would be 0, and train nothing
    want.forEach((rate, since) => t.true(Math.abs(at(start + since) - rate) < 1e-15, `${start} + ${since}`));
  }
  t.true(Math.abs(at(12.5) - (plain(14) * 2.5) / 4) < 1e-15, 'local steps are between');
});
