import test from 'ava';
import { agreedHash } from '../../../src/coordinator/core/divergence.ts';

function reported(step: number, ...hashes: string[]) {
  const byTrainer = hashes.map((weightsSha256, i) => ({ trainerId: `t-${i}`, weightsSha256 }));
  return { hashes: { step, expected: [], byTrainer } };
}

test('a hash is agreed on if all who told one of that step say the same', (t) => {
  t.deepEqual(agreedHash(reported(5, 'a', 'a'), 5), { step: 5, weightsSha256: 'a', trainers: 2 });
  t.is(agreedHash(reported(5, 'a', 'b'), 5), null);
  t.is(agreedHash(reported(5, 'a'), 6), null);
  t.is(agreedHash(reported(5), 5), null);
  t.is(agreedHash({ hashes: null }, 5), null);
});
