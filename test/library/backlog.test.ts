import test from 'ava';
import { Backlog } from '../../src/library/backlog.ts';

async function all<T>(values: AsyncIterable<T>): Promise<readonly T[]> {
  const found: T[] = [];
  for await (const value of values) found.push(value);
  return found;
}

test('every reader gets what was told before it came, and what comes later', async (t) => {
  const backlog = new Backlog<number>();
  backlog.add(1);
  const early = all(backlog);
  backlog.add(2);
  const late = all(backlog);
  await Promise.resolve();
  backlog.add(3);
  backlog.end();
  t.deepEqual(await early, [1, 2, 3]);
  t.deepEqual(await late, [1, 2, 3]);
  t.deepEqual(await all(backlog), [1, 2, 3]);
});

test('a failure is thrown behind what was told', async (t) => {
  const backlog = new Backlog<string>();
  backlog.add('first');
  backlog.fail(new Error('the disk is gone'));
  const reader = backlog[Symbol.asyncIterator]();
  t.deepEqual(await reader.next(), { value: 'first', done: false });
  await t.throwsAsync(reader.next(), { message: 'the disk is gone' });
});

test('a reader that leaves early ends, and holds nobody up', async (t) => {
  const backlog = new Backlog<number>();
  backlog.add(1);
  for await (const value of backlog) {
    t.is(value, 1);
    break;
  }
  backlog.add(2);
  backlog.end();
  t.deepEqual(await all(backlog), [1, 2]);
});

test('of very much the newest ten thousand are kept, in order', async (t) => {
  const backlog = new Backlog<number>();
  const reader = backlog[Symbol.asyncIterator]();
  backlog.add(0);
  t.deepEqual(await reader.next(), { value: 0, done: false });
  for (let value = 1; value <= 20_000; value += 1) backlog.add(value);
  backlog.end();
  const rest = await all({ [Symbol.asyncIterator]: () => reader });
  t.is(rest.length, 10_000);
  t.is(rest[0], 10_001);
  t.is(rest.at(-1), 20_000);
});
