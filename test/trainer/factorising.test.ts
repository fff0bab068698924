import test from 'ava';
import { checkBasis } from '../../src/galore/projection/check.ts';
import { refreshPlan, sketchPlan } from '../../src/galore/projection/sketch.ts';
import { basisShape } from '../../src/galore/slot.ts';
import { derive } from '../../src/random.ts';
import { factorise } from '../../src/trainer/factorising.ts';
import { projectedSlot, randomMatrix } from '../galore/matrices.ts';

const PLAN = refreshPlan({ type: 'sketch', oversample: 2, power_iterations: 1 });
const EXACT = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });
const KEY = derive(3, 'probe');

for (const side of ['left', 'right'] as const) {
  const slot = projectedSlot(12, 9, side, 3);

  test(`every round gives what the coordinator accepts, side ${side}`, (t) => {
    for (const plan of [PLAN, EXACT]) {
      for (let round = 1; round <= plan.rounds; round++) {
        const { sketchShape, isFinal } = sketchPlan(slot, round, plan);
        const sum = Float32Array.from(randomMatrix(...sketchShape, 'sum', round).values);
        const factor = factorise(slot, round, plan, sum);
        const [rows, columns] = isFinal ? basisShape(slot) : sketchShape;
        t.is(checkBasis(factor!, rows, columns, KEY), null, `${plan.type}, round ${round}`);
      }
    }
  });

  test(`a zero sum has no factor in any round, side ${side}`, (t) => {
    for (let round = 1; round <= PLAN.rounds; round++) {
      const [rows, columns] = sketchPlan(slot, round, PLAN).sketchShape;
      t.is(factorise(slot, round, PLAN, new Float32Array(rows * columns)), null);
    }
  });
}

test('equal sums give equal bytes, and the sum is left as it was', (t) => {
  const slot = projectedSlot(12, 9, 'left', 3);
  const sum = Float32Array.from(randomMatrix(...sketchPlan(slot, 1, PLAN).sketchShape, 'sum').values);
  const before = sum.slice();
  t.deepEqual(factorise(slot, 1, PLAN, sum), factorise(slot, 1, PLAN, sum));
  t.deepEqual(sum, before);
});
