import test from 'ava';
import { isLoopback } from '../src/loopback.ts';

test('loopback addresses and localhost reach this machine only; any other name may reach others', (t) => {
  for (const host of [
    '127.0.0.1',
    '127.8.8.8',
    '::1',
    '[::1]',
    'localhost',
    'LOCALHOST',
    '::ffff:127.0.0.1',
  ]) {
    t.true(isLoopback(host), host);
  }
  for (const host of [
    '0.0.0.0',
    '::',
    '10.0.0.7',
    '127.example.org',
    'localhost.example.org',
    '128.0.0.1',
    '',
  ]) {
    t.false(isLoopback(host), host);
  }
});
