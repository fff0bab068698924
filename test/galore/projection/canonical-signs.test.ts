import test from 'ava';
import { canonicalSigns } from '../../../src/galore/projection/canonical-signs.ts';

test('the entry of largest magnitude of each column becomes positive, the first of equal ones', (t) => {
  // Columns (1, -3), (-2, 2), (2, 1): the second ties, and its first entry decides.
  const columns = Float32Array.of(1, -2, 2, -3, 2, 1);
  canonicalSigns(columns, 2, 3);
  t.deepEqual([...columns], [-1, 2, 2, 3, -2, 1]);
});

test('the partner of a column is flipped along with it, whatever its own entries', (t) => {
  const columns = Float32Array.of(1, -2, 2, -3, 2, 1);
  const partner = Float32Array.of(5, 5, 5);
  canonicalSigns(columns, 2, 3, partner);
  t.deepEqual([...partner], [-5, -5, 5]);
});
