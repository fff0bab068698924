// Which address comes next: played as a session does, one failure after another.
import test from 'ava';
import {
  nextRoute,
  openingMs,
  OPENING_MS,
  REST_MS,
  routeOf,
  routeThatHolds,
  startRoute,
  type Route,
} from '../../../src/trainer/core/route.ts';

/** A leader that a standby names, 'none': it knows of none; null: the address is dead, 'silent': it says nothing. */
type Answer = number | 'none' | null | 'silent';

/** Fails at each address in turn, a second after the other. */
function walk(route: Route, answers: readonly Answer[]): readonly string[] {
  return answers.map((answer, i) => {
    const from = route.address;
    const next = nextRoute(route, failure(answer, i * 1000));
    route = next.route;
    return `${from}>${route.address}${next.isRoundOver ? ' wait' : ''}`;
  });
}

function failure(answer: Answer, nowMs: number) {
  const isStandby = answer !== null && answer !== 'silent';
  const standby = isStandby ? { leader: answer === 'none' ? null : answer } : null;
  return { nowMs, standby, isRefusal: false, isSilent: answer === 'silent' };
}

test('one address is tried again after a wait, always', (t) => {
  t.deepEqual(walk(startRoute(1), [null, 'none', 0]), ['0>0 wait', '0>0 wait', '0>0 wait']);
});

test('a round tries each address once, in order, and then waits', (t) => {
  t.deepEqual(walk(startRoute(3), [null, null, null, null]), ['0>1', '1>2', '2>0 wait', '0>1']);
});

test('the address that a standby names comes next, but none twice in a round', (t) => {
  t.deepEqual(walk(startRoute(4), [3, null, 3, null]), ['0>3', '3>1', '1>2', '2>3 wait']);
  t.deepEqual(walk(startRoute(3), [2, 2, 1]), ['0>2', '2>1', '1>2 wait']);
});

test('whoever was left out because of a leader that is dead has its turn in the same round', (t) => {
  const lost = { ...startRoute(3), address: 2 };
  t.deepEqual(walk(lost, [null, 2, 1]), ['2>0', '0>1', '1>2 wait']);
});

test('after a connection that held the round begins anew, behind the address that is gone', (t) => {
  const tried = nextRoute(startRoute(2), failure(null, 0)).route;
  t.deepEqual(walk(routeThatHolds(tried), [null, null]), ['1>0', '0>1 wait']);
});

test('fewer addresses than before: the numbers of those that are gone are not used', (t) => {
  const route = { ...startRoute(4), address: 3, tried: [1, 2] };
  const fewer = routeOf(route, 2);
  t.deepEqual(fewer, { ...startRoute(2), address: 1, tried: [1] });
  t.deepEqual(walk(fewer, [null]), ['1>0']);
});

test('a leader that says nothing is left alone while standbys answer, also where they still name it', (t) => {
  const words = walk(startRoute(3), ['silent', 0, 0, 0, 0, 0, 0]);
  t.deepEqual(words, ['0>1', '1>2', '2>1 wait', '1>2', '2>1 wait', '1>2', '2>1 wait']);
});

test('it has its turn again after a while, for a standby may be right', (t) => {
  const restedS = REST_MS / 1000;
  const words = walk(startRoute(2), ['silent', ...Array.from({ length: restedS + 1 }, () => 0)]);
  t.deepEqual(words.slice(0, restedS), ['0>1', ...Array.from({ length: restedS - 1 }, () => '1>1 wait')]);
  t.deepEqual(words.slice(restedS), ['1>0 wait', '0>1']);
});

test('where no standby answers the silent have their turn in every round', (t) => {
  t.deepEqual(walk(startRoute(2), ['silent', null, 'silent', null]), ['0>1', '1>0 wait', '0>1', '1>0 wait']);
  t.deepEqual(walk(startRoute(1), ['silent', 'silent']), ['0>0 wait', '0>0 wait']);
});

test('one of several addresses has less time to open, more each time that it said nothing, until it answers', (t) => {
  const first = { ...startRoute(2), address: 1 };
  const waits = [openingMs(first, 10_000)];
  let route: Route = first;
  for (const answer of ['silent', 'silent', 'silent', null] as const) {
    route = { ...nextRoute(route, failure(answer, 0)).route, address: 1 };
    waits.push(openingMs(route, 10_000));
  }
  t.deepEqual(waits, [OPENING_MS, 2 * OPENING_MS, 10_000, 10_000, OPENING_MS]);
  t.is(openingMs(startRoute(1), 10_000), 10_000);
});
