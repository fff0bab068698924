// Which address comes next: played as a session does, one failure after another.
import test from 'ava';
import {
  nextRoute,
  routeOf,
  routeThatHolds,
  startRoute,
  type Route,
} from '../../../src/trainer/core/route.ts';

/** Fails at each address in turn; `answers` are leaders that standbys name, null: the address is dead. */
function walk(route: Route, answers: readonly (number | 'none' | null)[]): readonly string[] {
  return answers.map((answer) => {
    const from = route.address;
    const standby = answer === null ? null : { leader: answer === 'none' ? null : answer };
    const next = nextRoute(route, standby, false);
    route = next.route;
    return `${from}>${route.address}${next.isRoundOver ? ' wait' : ''}`;
  });
}

test('one address is tried again after a wait, always', (t) => {
  t.deepEqual(walk(startRoute(1), [null, 'none', 0]), ['0>0 wait', '0>0 wait', '0>0 wait']);
});

test('a round tries each address once, in order, and then waits', (t) => {
  t.deepEqual(walk(startRoute(3), [null, null, null, null]), ['0>1', '1>2', '2>0 wait', '0>1']);
});

test('the address that a standby names comes next, but none twice in a round', (t) => {
  t.deepEqual(walk(startRoute(4), [3, null, 3, null]), ['0>3', '3>1', '1>2', '2>3 wait']);
});

test('whoever was left out because of a leader that is dead has its turn in the same round', (t) => {
  const lost = { ...startRoute(3), address: 2 };
  t.deepEqual(walk(lost, [null, 2, 1]), ['2>0', '0>1', '1>1 wait']);
});

test('after a connection that held the round begins anew, behind the address that is gone', (t) => {
  const tried = nextRoute(startRoute(2), null, false).route;
  t.deepEqual(walk(routeThatHolds(tried), [null, null]), ['1>0', '0>1 wait']);
});

test('fewer addresses than before: the numbers of those that are gone are not used', (t) => {
  const route = { ...startRoute(4), address: 3, tried: [1, 2] };
  const fewer = routeOf(route, 2);
  t.deepEqual(fewer, { ...startRoute(2), address: 1, tried: [1] });
  t.deepEqual(walk(fewer, [null]), ['1>0']);
});
