import test from 'ava';
import { tapReader } from '#scripts/tap';

function read(text: string) {
  const reader = tapReader();
  for (const line of text.trim().split('\n')) reader.read(line);
  reader.end();
  return reader.run;
}

test('passed, failed and skipped tests are told apart', (t) => {
  const run = read(`
TAP version 13
ok 1 - journal › a torn tail is cut off
not ok 2 - journal › a full disk is reported # TODO
ok 3 - journal › needs a GPU # SKIP
not ok 4 - codec › int8 keeps the sign
  ---
    name: AssertionError
    message: "expected -1 #1"
  ...
ok 5 - codec › zero stays zero

1..5
# tests 4
# pass 2
# fail 1
`);
  t.is(run.passed, 2);
  t.is(run.failed, 1);
  t.deepEqual(run.notes, ['journal › a full disk is reported # TODO', 'journal › needs a GPU # SKIP']);
  t.deepEqual(run.failures, [
    'codec › int8 keeps the sign\n    name: AssertionError\n    message: "expected -1 #1"',
  ]);
  t.true(run.isComplete);
});

test('a run that breaks off is not complete and keeps the failure it was reporting', (t) => {
  const run = read(`
TAP version 13
ok 1 - a › first
not ok 2 - a › second
  ---
    name: AssertionError
`);
  t.false(run.isComplete);
  t.deepEqual(run.failures, ['a › second\n    name: AssertionError']);
});
