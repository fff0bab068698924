import test from 'ava';
import { FactQueue } from '../../src/coordinator/fact-queue.ts';

test('a fact that an effect causes waits until the one before is dealt with', (t) => {
  const seen: string[] = [];
  const queue = new FactQueue<number>(
    (fact) => {
      seen.push(`begin ${fact}`);
      if (fact === 1) for (const next of [2, 3]) queue.put(next);
      seen.push(`end ${fact}`);
    },
    (error) => t.fail(String(error)),
  );
  queue.put(1);
  t.deepEqual(seen, ['begin 1', 'end 1', 'begin 2', 'end 2', 'begin 3', 'end 3']);
});

test('a failure is told, and a closed queue takes nothing any more but what it is at', (t) => {
  const seen: number[] = [];
  const failures: unknown[] = [];
  const queue = new FactQueue<number>(
    (fact) => {
      seen.push(fact);
      if (fact === 1) throw new Error('one');
      if (fact === 2) queue.close();
      if (fact === 2) queue.put(3);
    },
    (error) => failures.push(error),
  );
  queue.put(1);
  t.deepEqual(failures, [new Error('one')]);
  queue.put(2);
  queue.put(4);
  t.deepEqual(seen, [1, 2, 3]);
});
