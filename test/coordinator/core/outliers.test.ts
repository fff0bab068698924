import test from 'ava';
import fc from 'fast-check';
import { describeOutlier, judgeNorms } from '../../../src/coordinator/core/outliers.ts';
import type { OutlierPlan, Received } from '../../../src/coordinator/core/state.ts';

const REJECT: OutlierPlan = { action: 'reject', factor: 10 };
const CLIP: OutlierPlan = { action: 'clip', factor: 10 };

function withNorms(...norms: readonly number[]): Received[] {
  return norms.map((norm, i) => ({ trainerId: `t${i}`, tokens: 8, lossSum: 1, norm }));
}

test('a norm beyond the factor times the median is left out, or taken down to it', (t) => {
  const received = withNorms(4, 50, 5, 6);
  const { kept, outliers } = judgeNorms(REJECT, received);
  t.deepEqual(
    kept.map(({ trainerId }) => trainerId),
    ['t0', 't1', 't2', 't3'],
  );
  t.deepEqual(outliers, []); // 50 is 10 times 5, the lower median, and not more

  const rejected = judgeNorms(REJECT, withNorms(4, 51, 5, 6));
  t.deepEqual(
    rejected.kept.map(({ trainerId }) => trainerId),
    ['t0', 't2', 't3'],
  );
  t.deepEqual(rejected.outliers, [{ trainerId: 't1', norm: 51, median: 5, action: 'reject' }]);
  t.is(
    describeOutlier(rejected.outliers[0]!),
    "its norm, 51, is 10.2 times the median of the step's trainers (5)",
  );

  const clipped = judgeNorms(CLIP, withNorms(4, 100, 5, 6));
  t.is(clipped.kept[1]?.scale, 0.5);
  t.is(clipped.kept.length, 4);
});

test('nobody is judged where norms are accepted, where there are fewer than three, or by a median of zero', (t) => {
  for (const [plan, received] of [
    [null, withNorms(1, 1, 1e9)],
    [REJECT, withNorms(1, 1e9)],
    [REJECT, [...withNorms(1, 1e9), { trainerId: 'z', tokens: 8, lossSum: 1 }]],
    [REJECT, withNorms(0, 0, 5)],
  ] as const) {
    t.deepEqual(judgeNorms(plan, received), { kept: received, outliers: [] });
  }
});

test('most are always kept, and what counts is within the border', (t) => {
  const norms = fc.array(fc.double({ min: 0, max: 1e18, noNaN: true }), { minLength: 3, maxLength: 9 });
  fc.assert(
    fc.property(norms, fc.constantFrom(REJECT, CLIP), (given, plan) => {
      const { kept, outliers } = judgeNorms(plan, withNorms(...given));
      const left = plan.action === 'clip' ? given.length : given.length - outliers.length;
      t.is(kept.length, left);
      t.true(2 * outliers.length <= given.length);
      for (const { norm = 0, scale = 1 } of kept) {
        const most = outliers[0] === undefined ? Infinity : plan.factor * outliers[0].median;
        t.true(norm * scale <= most * (1 + 1e-12));
      }
    }),
    { seed: 1 },
  );
});
