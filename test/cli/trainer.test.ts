import test from 'ava';
import { defaultTrainerId } from '../../src/cli/trainer.ts';
import { deferred } from '../../src/deferred.ts';
import { EngineError } from '../../src/errors.ts';
import type { TrainerOptions, TrainerResult } from '../../src/trainer/api.ts';
import { FakeStream, settle, world, type World, type WorldOptions } from './fakes.ts';

interface Joined extends World {
  readonly options: Promise<TrainerOptions>;
  readonly end: (result: TrainerResult) => void;
}

function joining(t: Parameters<typeof world>[0], options: WorldOptions = {}): Joined {
  const given = deferred<TrainerOptions>();
  const result = deferred<TrainerResult>();
  const w = world(t, {
    ...options,
    services: {
      runTrainer: (trainerOptions) => {
        given.resolve(trainerOptions);
        return result.promise;
      },
    },
  });
  return { ...w, options: given.promise, end: result.resolve };
}

test('a trainer has defaults for everything but the address', async (t) => {
  const w = joining(t, { token: 's3cret' });
  const running = w.run('trainer', 'ws://10.0.0.7:29400');
  const { logger: _, signal, onActivity: __, ...options } = await w.options;
  t.deepEqual(options, {
    url: 'ws://10.0.0.7:29400',
    trainerId: 'B-x-7-42',
    runName: '',
    token: 's3cret',
    threads: 8,
    device: { name: 'cpu', folder: '/engine', gpu: null },
  });
  t.false(signal.aborted);
  w.end({ code: 0, reason: 'the run has ended' });
  t.is(await running, 0);
  t.is(w.out.text, 'the run has ended\n');
});

test('flags go before defaults, and --token before GALORE_TOKEN', async (t) => {
  const w = joining(t, { token: 'from the environment' });
  void w.run('trainer', 'wss://x/', '--id', 'a.b-1', '--run', 'tiny', '--token', 'own', '--threads', '3');
  t.like(await w.options, { trainerId: 'a.b-1', runName: 'tiny', token: 'own', threads: 3 });
});

test('--device is what the engine is asked for, and another word is bad usage', async (t) => {
  const w = joining(t);
  void w.run('trainer', 'ws://x', '--device', 'gpu:1');
  t.like((await w.options).device, { name: 'gpu:1' });
  const wrong = world(t);
  t.is(await wrong.run('trainer', 'ws://x', '--device', 'cuda:0'), 2);
  t.regex(wrong.err.text, /'cuda:0' is invalid\. It must be auto, cpu, or gpu: and a number such as gpu:0\./);
});

test('an address that is no WebSocket address is bad usage', async (t) => {
  const { run, err } = world(t);
  t.is(await run('trainer', 'http://10.0.0.7:29400'), 2);
  t.regex(err.text, /Write ws:\/\/10\.0\.0\.7:29400\./);
  t.is(await run('trainer', '10.0.0.7'), 2);
  t.regex(err.text, /It must begin with ws:\/\/ or wss:\/\//);
  t.is(await run('trainer', 'ws://x', '--id', 'a b'), 2);
  t.is(await run('trainer', 'ws://x', '--threads', '0'), 2);
});

test('a trainer that is refused ends with its code and the reason', async (t) => {
  const w = joining(t);
  const running = w.run('trainer', 'ws://x');
  await w.options;
  w.end({ code: 3, reason: 'the token is missing or wrong' });
  t.is(await running, 3);
  t.is(w.err.text, 'error: the token is missing or wrong\n');
});

test('the engine is there before the trainer begins, else that is the error', async (t) => {
  const w = world(t, { services: { ensureEngine: () => Promise.reject(new EngineError('pip is missing')) } });
  t.is(await w.run('trainer', 'ws://x'), 3);
  t.is(w.err.text, 'error: pip is missing\n');
});

test('the first Ctrl-C leaves, the second ends with 130', async (t) => {
  const w = joining(t);
  const running = w.run('trainer', 'ws://x');
  const { signal } = await w.options;
  w.signal('SIGINT');
  t.true(signal.aborted);
  t.deepEqual(w.exits, []);
  w.signal('SIGINT');
  t.deepEqual(w.exits, [130]);
  w.end({ code: 0, reason: 'left' });
  t.is(await running, 0);
  t.deepEqual(w.signals.eventNames(), []);
});

test('a trainer whose parent is gone leaves, and is ended if that takes too long', async (t) => {
  const w = joining(t, { hasParent: true });
  void w.run('trainer', 'ws://x', '--quiet');
  const { signal } = await w.options;
  w.parent.gone();
  t.true(signal.aborted);
  t.is(w.timers.fireNext(), 10_000);
  t.deepEqual(w.exits, [3]);
});

test('on a terminal the activity is the status line; --quiet shows none', async (t) => {
  const w = joining(t, { out: new FakeStream(true, 80) });
  void w.run('trainer', 'ws://x', '--id', 'a');
  (await w.options).onActivity?.('step 12: backward');
  await settle();
  t.regex(w.out.text, /a · step 12: backward$/);
  const quiet = joining(t, { out: new FakeStream(true, 80) });
  void quiet.run('trainer', 'ws://x', '--quiet');
  (await quiet.options).onActivity?.('step 12: backward');
  t.is(quiet.out.text, '');
});

test('a default name has only letters a trainer id may have', (t) => {
  t.is(defaultTrainerId('ann-laptop.local', 7), 'ann-laptop.local-7');
  t.is(defaultTrainerId('', 7), 'trainer-7');
  t.is(defaultTrainerId('x'.repeat(300), 4_194_304).length, 56);
});
