import test from 'ava';
import { ById } from '../../../src/coordinator/core/by-id.ts';
import { createDice } from '../../../src/simulation/dice.ts';

interface Item {
  readonly trainerId: string;
  readonly value: number;
}

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
    t.is(
      list.sum(({ value }) => value),
      sorted.reduce((sum, { value }) => sum + value, 0),
    );
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
