import test from 'ava';
import { agreedHash } from '../../../src/coordinator/core/divergence.ts';

function reported(step: number, ...hashes: string[]) {
  return {
    step,
    expected: [],
    byTrainer: hashes.map((weightsSha256, i) => ({ trainerId: `t-${i}`, weightsSha256 })),
  };
}

test('a hash is agreed on if all who told one say the same', (t) => {
  t.deepEqual(agreedHash(reported(5, 'a', 'a')), { step: 5, weightsSha256: 'a', trainers: 2 });
  t.is(agreedHash(reported(5, 'a', 'b')), null);
  t.is(agreedHash(reported(5)), null);
});
