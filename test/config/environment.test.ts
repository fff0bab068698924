import test from 'ava';
import { readEnvironment } from '../../src/config/environment.ts';

test('the cache folder is the first of GALORE_CACHE_DIR, XDG_CACHE_HOME and ~/.cache that is set', (t) => {
  const cacheDir = (variables: Record<string, string>): string =>
    readEnvironment(variables, '/home/ann').cacheDir;
  t.is(cacheDir({ GALORE_CACHE_DIR: '/big/cache', XDG_CACHE_HOME: '/xdg' }), '/big/cache');
  t.is(cacheDir({ XDG_CACHE_HOME: '/xdg' }), '/xdg/galore-swarm');
  t.is(cacheDir({ XDG_CACHE_HOME: 'relative' }), '/home/ann/.cache/galore-swarm');
  t.is(cacheDir({ GALORE_CACHE_DIR: '' }), '/home/ann/.cache/galore-swarm');
});

test('NO_COLOR set to anything and a dumb terminal mean no colour', (t) => {
  t.true(readEnvironment({}, '/').mayColour);
  t.true(readEnvironment({ NO_COLOR: '' }, '/').mayColour);
  t.false(readEnvironment({ NO_COLOR: '0' }, '/').mayColour);
  t.like(readEnvironment({ TERM: 'dumb' }, '/'), { mayColour: false, mayRedraw: false });
});

test('the join token is empty where none is set', (t) => {
  t.is(readEnvironment({}, '/').token, '');
  t.is(readEnvironment({ GALORE_TOKEN: 's3cret' }, '/').token, 's3cret');
});
