import test from 'ava';
import fc from 'fast-check';
import { dealBySite, dirichlet, gamma } from '../../examples/federated/deal.ts';
import { derive } from '../../src/random.ts';

test('everything is dealt, nothing twice, and every site has enough', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 500 }), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 1, max: 4 }),
      fc.nat(0xffffffff),
      (counts, sites, seed) => {
        const total = counts.reduce((sum, count) => sum + count, 0);
        const minimum = Math.floor(total / (10 * sites));
        const { counts: dealt } = dealBySite(counts, sites, 1, seed, minimum);
        const sums = dealt.map((bySite) => bySite.reduce((sum, count) => sum + count, 0));
        const sizes = Array.from({ length: sites }, (_, site) =>
          dealt.reduce((sum, bySite) => sum + bySite[site]!, 0),
        );
        return (
          sums.every((sum, group) => sum === counts[group]) &&
          dealt.flat().every((count) => Number.isInteger(count) && count >= 0) &&
          sizes.every((size) => size >= minimum)
        );
      },
    ),
    { numRuns: 50 },
  );
  t.pass();
});

test('the same seed deals the same, another seed otherwise', (t) => {
  const deal = (seed: number): unknown => dealBySite([800, 800, 250, 500, 800], 5, 0.2, seed).counts;
  t.deepEqual(deal(1), deal(1));
  t.notDeepEqual(deal(1), deal(2));
});

test('a deal that cannot give every site enough is refused', (t) => {
  t.throws(() => dealBySite([3], 5, 0.2, 1), {
    instanceOf: RangeError,
    message: 'no draw of 1000 gave each of 5 sites at least 1',
  });
});

test('Gamma numbers have the mean and the variance alpha', (t) => {
  // Of n draws the mean has a standard deviation of sqrt(alpha / n); that of the variance is
  // sqrt((kurtosis - 1) / n) * alpha with kurtosis 3 + 6 / alpha.
  const n = 20_000;
  for (const alpha of [0.2, 1, 3]) {
    const drawn = Array.from({ length: n }, (_, i) => gamma(derive(9, i), alpha));
    const mean = drawn.reduce((sum, each) => sum + each, 0) / n;
    const variance = drawn.reduce((sum, each) => sum + (each - mean) ** 2, 0) / n;
    t.true(Math.abs(mean - alpha) < 4 * Math.sqrt(alpha / n), `mean ${mean} of ${alpha}`);
    t.true(Math.abs(variance - alpha) < 4 * alpha * Math.sqrt((2 + 6 / alpha) / n), `variance ${variance}`);
  }
});

test('Dirichlet shares add up to 1, and with a small alpha one of them is most of it', (t) => {
  const largest = (alpha: number): number => {
    const draws = Array.from({ length: 500 }, (_, i) => dirichlet(derive(4, i), 5, alpha));
    t.true(draws.every((shares) => Math.abs(shares.reduce((sum, share) => sum + share, 0) - 1) < 1e-12));
    return draws.reduce((sum, shares) => sum + Math.max(...shares), 0) / draws.length;
  };
  t.true(largest(0.2) > 0.65);
  t.true(largest(100) < 0.3);
  t.deepEqual(dirichlet(derive(1), 3, 1e-9).toSorted(), [0, 0, 1]);
});
