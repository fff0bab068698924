import test from 'ava';
import { LocalTrainers } from '../../src/cli/local-trainers.ts';
import { FakeTimers, settle, type FakeProcess } from './fakes.ts';

interface Setting {
  readonly trainers: LocalTrainers;
  readonly processes: FakeProcess[];
  readonly timers: FakeTimers;
  readonly notices: string[];
  readonly gone: string[];
}

function setting(count: number): Setting {
  const processes: FakeProcess[] = [];
  const timers = new FakeTimers();
  const notices: string[] = [];
  const gone: string[] = [];
  const trainers = new LocalTrainers({
    count,
    after: timers.after,
    launch: (args, events) => {
      const process: FakeProcess = { args, events, environment: {}, signals: [] };
      processes.push(process);
      return { kill: (signal) => void process.signals.push(signal) };
    },
    argsOf: (trainerId) => [trainerId],
    onLine: () => {},
    onNotice: (text) => void notices.push(text),
    onAllGone: (reason) => void gone.push(reason),
  });
  return { trainers, processes, timers, notices, gone };
}

test('the trainers are numbered from 1', (t) => {
  const { processes } = setting(3);
  t.deepEqual(
    processes.map(({ args }) => args),
    [['trainer-1'], ['trainer-2'], ['trainer-3']],
  );
});

test('a trainer that crashes is started again after 1, 2 and 4 seconds, and then no more', (t) => {
  const { processes, timers, notices, gone } = setting(1);
  processes[0]?.events.onLine('terminate called after throwing');
  processes[0]?.events.onExit(null, 'signal SIGABRT');
  t.deepEqual(notices, ['trainer-1 ended (signal SIGABRT: terminate called after throwing); restart 1 of 3']);
  t.is(timers.fireNext(), 1000);
  t.is(processes.length, 2);
  processes[1]?.events.onExit(1, 'exit code 1');
  t.is(timers.fireNext(), 2000);
  processes[2]?.events.onExit(1, 'exit code 1');
  t.is(timers.fireNext(), 4000);
  processes[3]?.events.onExit(1, 'exit code 1');
  t.is(timers.fireNext(), undefined);
  t.is(processes.length, 4);
  t.is(notices.at(-1), 'trainer-1 ended for good (exit code 1: terminate called after throwing)');
  t.deepEqual(gone, ['trainer-1: exit code 1: terminate called after throwing']);
});

test('a trainer that was refused or has bad input is not started again', (t) => {
  for (const code of [2, 3]) {
    const { processes, timers, gone } = setting(1);
    processes[0]?.events.onExit(code, `exit code ${code}`);
    t.is(timers.pending.length, 0);
    t.deepEqual(gone, [`trainer-1: exit code ${code}`]);
  }
});

test('the run goes on while one trainer is left', (t) => {
  const { processes, gone } = setting(2);
  processes[0]?.events.onExit(3, 'exit code 3');
  t.deepEqual(gone, []);
  processes[1]?.events.onExit(3, 'exit code 3');
  t.deepEqual(gone, ['trainer-1: exit code 3; trainer-2: exit code 3']);
});

test('trainers that leave because the run has ended are no loss', (t) => {
  const { processes, notices, gone } = setting(2);
  processes[0]?.events.onExit(0, 'exit code 0');
  processes[1]?.events.onExit(0, 'exit code 0');
  t.deepEqual([notices, gone], [[], []]);
});

test('after a completed run they leave by themselves, else they are asked, else killed', async (t) => {
  const { trainers, processes, timers } = setting(1);
  let isClosed = false;
  const closing = trainers.close(true).then(() => (isClosed = true));
  t.deepEqual(processes[0]?.signals, []);
  t.is(timers.fireNext(), 10_000);
  t.deepEqual(processes[0]?.signals, ['SIGTERM']);
  t.is(timers.fireNext(), 5_000);
  t.deepEqual(processes[0]?.signals, ['SIGTERM', 'SIGKILL']);
  await settle();
  t.false(isClosed);
  processes[0]?.events.onExit(null, 'signal SIGKILL');
  await closing;
  t.is(timers.pending.length, 0);
});

test('after a stopped run they are asked at once, and nobody is started again', async (t) => {
  const { trainers, processes, timers, notices } = setting(2);
  processes[1]?.events.onExit(1, 'exit code 1');
  t.is(timers.pending.length, 1); // the restart
  const closing = trainers.close(false);
  t.deepEqual(processes[0]?.signals, ['SIGTERM']);
  processes[0]?.events.onExit(0, 'exit code 0');
  await closing;
  t.is(timers.pending.length, 0);
  t.is(processes.length, 2);
  t.is(notices.length, 1);
});

test('closing when all have left already returns at once', async (t) => {
  const { trainers, processes } = setting(1);
  processes[0]?.events.onExit(0, 'exit code 0');
  await t.notThrowsAsync(trainers.close(true));
});
