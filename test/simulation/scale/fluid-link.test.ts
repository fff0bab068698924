import test from 'ava';
import { createClock } from '../../../src/simulation/clock.ts';
import { createFluidLink } from '../../../src/simulation/scale/fluid-link.ts';

/** When each of some transfers ends, in milliseconds. */
function endsOf(
  bytesPerSecond: number,
  transfers: readonly { readonly end?: number; readonly bytes: number; readonly atMs?: number }[],
): number[] {
  const clock = createClock();
  const link = createFluidLink(clock, bytesPerSecond);
  const ends: number[] = [];
  for (const [i, { end = Infinity, bytes, atMs = 0 }] of transfers.entries()) {
    const flow = link.flow(end);
    clock.schedule(atMs, () => flow.send(bytes, () => (ends[i] = clock.nowMs())));
  }
  clock.run(1e12, () => false);
  return ends.map((ms) => Math.round(ms));
}

test('one transfer takes its bytes by the slower of link and end', (t) => {
  t.deepEqual(endsOf(1000, [{ bytes: 5000 }]), [5000]);
  t.deepEqual(endsOf(1000, [{ end: 500, bytes: 5000 }]), [10_000]);
});

test('two transfers over one link take the sum of their times', (t) => {
  t.deepEqual(endsOf(1000, [{ bytes: 5000 }, { bytes: 5000 }]), [10_000, 10_000]);
});

test('the shorter of two transfers leaves its part of the link to the other', (t) => {
  t.deepEqual(endsOf(1000, [{ bytes: 1000 }, { bytes: 3000 }]), [2000, 4000]);
  t.deepEqual(endsOf(1000, [{ bytes: 4000 }, { bytes: 1000, atMs: 1000 }]), [5000, 3000]);
});

test('what a slow end cannot use goes to the others', (t) => {
  // 100 of the 1000 bytes a second are the slow one's; the two others share 900.
  t.deepEqual(
    endsOf(1000, [{ end: 100, bytes: 1000 }, { bytes: 4500 }, { bytes: 4500 }]),
    [10_000, 10_000, 10_000],
  );
});

test('a link that is faster than all its ends together holds nobody up', (t) => {
  t.deepEqual(
    endsOf(Infinity, [
      { end: 100, bytes: 1000 },
      { end: 200, bytes: 1000 },
    ]),
    [10_000, 5000],
  );
});

test('what one end sends leaves in order, and is told of in order', (t) => {
  const clock = createClock();
  const flow = createFluidLink(clock, 1000).flow(Infinity);
  const seen: string[] = [];
  const tell = (name: string) => () => seen.push(`${name} ${Math.round(clock.nowMs())}`);
  flow.send(1000, tell('a'));
  flow.send(500);
  flow.send(500, tell('b'));
  clock.schedule(5000, () => flow.send(1000, tell('c')));
  clock.run(1e9, () => false);
  t.deepEqual(seen, ['a 1000', 'b 2000', 'c 6000']);
});

test('a transfer that is given up leaves the link to the others and is told to nobody', (t) => {
  const clock = createClock();
  const link = createFluidLink(clock, 1000);
  const [given, other] = [link.flow(Infinity), link.flow(Infinity)];
  let end = 0;
  given.send(1e6, () => t.fail('it was given up'));
  other.send(3000, () => (end = clock.nowMs()));
  clock.schedule(2000, () => given.cancel());
  clock.run(1e9, () => false);
  t.is(Math.round(end), 4000);
});

test('after a rest a burst leaves at once, as much as the rest would have sent at most', (t) => {
  const clock = createClock();
  const flow = createFluidLink(clock, Infinity).flow(1000, 2000);
  const ends: number[] = [];
  const send = (): void => flow.send(5000, () => ends.push(Math.round(clock.nowMs())));
  send();
  clock.schedule(4000, send); // 1 s after the first has left
  clock.run(1e9, () => false);
  t.deepEqual(ends, [3000, 8000]);
});

test('the link tells for how long it was what transfers waited for', (t) => {
  const clock = createClock();
  const link = createFluidLink(clock, 1000);
  link.flow(Infinity).send(3000);
  link.flow(100).send(1000);
  clock.run(20_000, () => false);
  // 900 bytes a second for the first, then the second alone at its own rate.
  t.is(Math.round(3 * link.fullSeconds()), 10);
});

test('ten thousand transfers of many rates end when their bytes by their rates say', (t) => {
  const clock = createClock();
  const link = createFluidLink(clock, 1e6);
  const ends: number[] = [];
  for (let i = 0; i < 10_000; i += 1) link.flow(50 + (i % 100)).send(1000, () => ends.push(clock.nowMs()));
  clock.run(1e9, () => false);
  t.is(ends.length, 10_000);
  // All of it is 10 MB; ends could take 0.995 MB a second together: the link is not full.
  t.true(ends.at(-1)! >= 19_000 && ends.at(-1)! <= 20_900, String(ends.at(-1)));
});
