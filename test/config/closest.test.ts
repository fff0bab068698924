import test from 'ava';
import { closestName, editDistance } from '../../src/config/closest.ts';

test('the edit distance counts letters put in, left out, replaced, and swapped neighbours', (t) => {
  t.is(editDistance('', 'abc'), 3);
  t.is(editDistance('optimiser', 'optimizer'), 1);
  t.is(editDistance('rnak', 'rank'), 1); // one swap
  t.is(editDistance('kitten', 'sitting'), 3);
});

test('the nearest name is found across case and hyphens, and nothing is better than a wild guess', (t) => {
  t.is(closestName('TokenBatch-Size', ['batch_size', 'seq_len']), 'batch_size');
  t.is(closestName('stpes', ['steps', 'seed']), 'steps');
  t.is(closestName('quantum', ['steps', 'seed']), null);
  t.is(closestName('x'.repeat(1000), ['steps']), null);
});
