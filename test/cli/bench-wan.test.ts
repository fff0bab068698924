import test from 'ava';
import { world } from './fakes.ts';

test('a rate without a unit, a preset that there is not and no steps are bad usage', async (t) => {
  const { run, err } = world(t);
  t.is(await run('bench', 'wan', '--rate', '100'), 2);
  t.regex(
    err.text,
    /'--rate <rate>' argument '100' is invalid. It must be a number above 0 with its unit: bit,/,
  );
  t.is(await run('bench', 'wan', '--up', '-1mbit'), 2);
  t.is(await run('bench', 'wan', '--down', '0mbit'), 2);
  t.is(await run('bench', 'wan', '--preset', 'home'), 2);
  t.regex(err.text, /Allowed choices are exact, lean, balanced, wan, extreme/);
  t.is(await run('bench', 'wan', '--steps', '0'), 2);
});

test('settings that do not go together are refused before anything is made', async (t) => {
  const { run, err } = world(t);
  t.is(await run('bench', 'wan', '--set', 'method.rank=many', '--set', 'wire.codec=zip'), 2);
  t.regex(err.text, /method\.rank/);
  t.regex(err.text, /wire\.codec/);
});
