import test from 'ava';
import { checkBasis } from '../../src/galore/projection/check.ts';
import { sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisRows, basisShape, type ProjectedSlot } from '../../src/galore/slot.ts';
import { basisSize } from '../../src/protocol/slot-sizes.ts';
import { derive } from '../../src/random.ts';
import { makeFactor } from '../../src/trainer/factor-job.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';
import { orthonormalMatrix, randomMatrix } from '../galore/matrices.ts';

const KEY = derive(3, 'probe');

/** Every kind of refresh, by the settings that choose it. */
const RUNS: Readonly<Record<string, readonly string[]>> = {
  'a fixed rank': [],
  'adaptive ranks': [
    'method.name=adarankgrad',
    'method.rank=8',
    'method.adaptive_rank.min_rank=2',
    'method.adaptive_rank.multiple=2',
  ],
  'adaptive ranks of an exact refresh': [
    'method.name=adarankgrad',
    'method.refresh.type=exact',
    'method.adaptive_rank.min_rank=2',
    'method.adaptive_rank.multiple=2',
  ],
  'cosine bases': ['method.basis=dct'],
  'cosine bases of an exact refresh': ['method.basis=dct', 'method.refresh.type=exact'],
  'two-sided bases': ['method.name=two-sided'],
};

for (const [what, settings] of Object.entries(RUNS)) {
  test(`with ${what} every round gives what the coordinator accepts, and a zero sum nothing`, (t) => {
    const { config, shape, projected } = tinyRun(...settings);
    const slots = shape.slots.filter(({ policy }) => policy !== 'dense') as ProjectedSlot[];
    t.true(slots.length > 0 && projected.length >= 0);
    const [slot] = slots as [ProjectedSlot];
    const { rounds } = shape.refresh;
    for (let round = 1; round <= rounds; round++) {
      const plan = sketchPlan(slot, round, shape.refresh);
      const sum = Float32Array.from(randomMatrix(...plan.sketchShape, 'sum', round).values);
      const [rows, columns] = plan.factorShape ?? [0, 0];
      const factor =
        plan.factorShape === null ? null : Float32Array.from(orthonormalMatrix(rows, columns, 'f').values);
      const job = { shape, adaptiveRank: config.method.adaptive_rank, step: 3, round, seed: 1 };
      const made = makeFactor(job, slot, sum, factor)!;
      t.is(
        makeFactor(
          job,
          slot,
          sum.map(() => 0),
          factor,
        ),
        null,
      );
      if (!plan.isFinal) {
        t.is(4 * made.length, shape.sizes[slot.index]!.sketches[round - 1]!.totalBytes);
        continue;
      }
      const size = basisSize(shape.sizes[slot.index]!, 4 * made.length);
      t.deepEqual(size, { codec: 'f32', totalBytes: 4 * made.length });
      const rank = made.length / basisShape(slot)[0];
      let from = 0;
      for (const half of basisRows(slot)) {
        t.is(checkBasis(made.subarray(from, (from += half * rank)), half, rank, KEY), null);
      }
    }
  });
}
