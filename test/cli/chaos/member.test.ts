// Processes of `galore chaos`: which ends are its own doing, and which are not. Without processes.
import test from 'ava';
import { Member } from '../../../src/cli/chaos/member.ts';
import type { ChildProcessEvents } from '../../../src/cli/local-trainers.ts';

interface Stage {
  readonly member: Member;
  readonly starts: ChildProcessEvents[];
  readonly told: string[];
}

function stage(): Stage {
  const starts: ChildProcessEvents[] = [];
  const told: string[] = [];
  const member = new Member({
    name: 'a',
    args: () => ['trainer'],
    launch: (_, events) => {
      starts.push(events);
      return { kill: (signal) => void told.push(signal) };
    },
    onLine: () => {},
    onDown: () => void told.push('down'),
    onDone: () => void told.push('done'),
  });
  member.start();
  return { member, starts, told };
}

test('a killed process is started when asked for, also if it was not gone yet', (t) => {
  const late = stage();
  late.member.kill();
  late.starts[0]!.onExit(null, 'signal SIGKILL');
  t.is(late.starts.length, 1);
  late.member.startAgain();
  t.is(late.starts.length, 2);

  const early = stage();
  early.member.kill();
  early.member.startAgain();
  t.is(early.starts.length, 1);
  early.starts[0]!.onExit(null, 'signal SIGKILL');
  t.is(early.starts.length, 2);
  t.deepEqual(early.member.unexpectedEnds, []);
  t.deepEqual(early.told, ['SIGKILL', 'down']);
});

test('asking for a process that runs starts no second one, now or later', (t) => {
  const { member, starts } = stage();
  member.startAgain();
  member.kill();
  starts[0]!.onExit(null, 'signal SIGKILL');
  t.is(starts.length, 1);
});

test('an end with code 0 is final, any other one is told with the last lines', (t) => {
  const done = stage();
  done.starts[0]!.onExit(0, 'exit code 0');
  done.member.startAgain();
  t.is(done.starts.length, 1);
  t.deepEqual(done.told, ['down', 'done']);

  const failed = stage();
  failed.starts[0]!.onLine('error: no');
  failed.starts[0]!.onExit(1, 'exit code 1');
  failed.member.retire();
  t.deepEqual(failed.member.unexpectedEnds, [{ name: 'a', how: 'exit code 1', lines: ['error: no'] }]);
  t.deepEqual(failed.told, ['down']);
});
