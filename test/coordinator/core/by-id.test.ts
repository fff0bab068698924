import test from 'ava';
import { ById, pieceSum } from '../../../src/coordinator/core/by-id.ts';
import { createDice } from '../../../src/simulation/dice.ts';

interface Item {
  readonly trainerId: string;
  readonly value: number;
}

const sumOfValues = pieceSum<Item>(({ value }) => value);

test('after any changes it has what a map would have, ascending, and the ones before are as they were', (t) => {
  const dice = createDice(7, 'changes');
  const expected = new Map<string, Item>();
  let list = ById.of<Item>([]);
  let splits = 0;
  for (let change = 0; change < 3000; change++) {
    const trainerId = `t${Math.floor(dice() * 400)}`;
    const before = list;
    const was = [...before];
    if (dice() < 0.3) {
      expected.delete(trainerId);
      list = list.without(trainerId);
    } else {
      const item = { trainerId, value: change };
      expected.set(trainerId, item);
      list = list.with(item);
    }
    splits = Math.max(splits, list.pieces.length);
    if (change % 50 > 0) continue;
    const sorted = [...expected.values()].sort((a, b) => (a.trainerId < b.trainerId ? -1 : 1));
    t.deepEqual([...list], sorted);
    t.deepEqual([...before], was);
    t.is(list.length, sorted.length);
    t.deepEqual(
      list.map(({ value }) => value),
      sorted.map(({ value }) => value),
    );
    const sum = sorted.reduce((before, { value }) => before + value, 0);
    t.is(sumOfValues(list), sum);
    t.is(list.get(trainerId), expected.get(trainerId));
  }
  t.true(splits > 2, `${splits} pieces at most`);
});

test('what is not there changes nothing', (t) => {
  const list = ById.of([{ trainerId: 'b' }]);
  t.is(list.without('a'), list);
  t.is(list.get('a'), undefined);
  t.is(
    list.find(() => false),
    undefined,
  );
  t.deepEqual([...list.without('b')], []);
});

test('several are changed at once; pieces without any of them are shared', (t) => {
  const items = Array.from({ length: 1000 }, (_, value) => ({ trainerId: `t${1000 + value}`, value }));
  const list = ById.of(items);
  const double = ({ trainerId, value }: Item): Item => ({ trainerId, value: 2 * value });
  for (const ids of [['t1003'], ['t1003', 'stranger', 't1900'], items.map(({ trainerId }) => trainerId)]) {
    const changed = list.changed(ids, double);
    t.deepEqual(
      [...changed],
      items.map((item) => (ids.includes(item.trainerId) ? double(item) : item)),
    );
    t.is(changed.length, list.length);
  }
  t.deepEqual([...list], items);
  const shared = list
    .changed(['t1003', 't1004'], double)
    .pieces.filter((piece) => list.pieces.includes(piece));
  t.is(shared.length, list.pieces.length - 1);
  t.is(
    list.changed(['t1003', 't1004'], (item) => item),
    list,
  );
  t.is(list.changed(['stranger'], double), list);
  t.is(list.changed([], double), list);
});
