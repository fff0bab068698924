import test from 'ava';
import { BufferPool } from '../../src/protocol/buffer-pool.ts';

test('a buffer that was given serves the next request of its length, and only one', (t) => {
  const pool = new BufferPool();
  const bytes = pool.take(8);
  pool.give([bytes], 100);
  t.is(pool.bytesHeld, 8);
  t.not(pool.take(7), bytes);
  t.is(pool.take(8), bytes);
  t.is(pool.bytesHeld, 0);
  t.not(pool.take(8), bytes);
});

test('no more is kept than is allowed, and the oldest go first', (t) => {
  const pool = new BufferPool();
  const [old, middle, last] = [new Uint8Array(4), new Uint8Array(5), new Uint8Array(6)];
  pool.give([old, middle, last], 11);
  t.is(pool.bytesHeld, 11);
  t.not(pool.take(4), old);
  t.is(pool.take(5), middle);
  pool.give([], 0);
  t.is(pool.bytesHeld, 0);
  pool.give([new Uint8Array(9)], 8);
  t.is(pool.bytesHeld, 0);
});

test('views and buffers that were transferred are not kept', (t) => {
  const pool = new BufferPool();
  const gone = new Uint8Array(8);
  structuredClone(gone, { transfer: [gone.buffer] });
  const shared = new Uint8Array(new SharedArrayBuffer(8));
  pool.give([gone, shared, new Uint8Array(16).subarray(8), new Uint8Array(16).subarray(0, 8)], 100);
  t.is(pool.bytesHeld, 0);
  t.is(pool.take(8).buffer.byteLength, 8);
});
