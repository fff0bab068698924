import test from 'ava';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defaultTrainerId } from '../../src/cli/trainer.ts';
import { deferred } from '../../src/deferred.ts';
import { EngineError } from '../../src/errors.ts';
import type { TrainerOptions, TrainerResult } from '../../src/trainer/api.ts';
import { pairPaths, pemPath } from '../helpers/tls.ts';
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
    tls: {},
    threads: 8,
    device: { name: 'cpu', folder: '/engine', gpu: null },
    precision: 'f32',
  });
  t.false(signal.aborted);
  w.end({ code: 0, reason: 'the run has ended' });
  t.is(await running, 0);
  t.is(w.out.text, 'the run has ended\n');
});

test('flags go before defaults, and --token before GALORE_TOKEN', async (t) => {
  const w = joining(t, { token: 'from-the-environment' });
  void w.run(
    'trainer',
    'wss://x/',
    '--id',
    'a.b-1',
    '--run',
    'tiny',
    '--token',
    'own',
    '--threads',
    '3',
    '--precision',
    'bf16',
  );
  t.like(await w.options, {
    trainerId: 'a.b-1',
    runName: 'tiny',
    token: 'own',
    threads: 3,
    precision: 'bf16',
  });
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
  t.is(await run('trainer', 'ws://x', '--precision', 'f16'), 2);
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

test('--token-file and GALORE_TOKEN are read without their newline; --token-file goes before GALORE_TOKEN', async (t) => {
  const w = joining(t, { token: 'of-the-environment\n' });
  writeFileSync(join(w.dir, 'token'), 'of-the-file\n', { mode: 0o600 });
  void w.run('trainer', 'ws://127.0.0.1', '--token-file', 'token');
  t.is((await w.options).token, 'of-the-file');
  t.is(w.err.text, '');
  const other = joining(t, { token: 'of-the-environment\n' });
  void other.run('trainer', 'ws://127.0.0.1');
  t.is((await other.options).token, 'of-the-environment');
});

test('a token that is none is bad input, and no message shows it', async (t) => {
  const w = world(t, { token: 's3cret s3cret' });
  writeFileSync(join(w.dir, 'empty'), '\n');
  writeFileSync(join(w.dir, 'essay'), 's3cret s3cret s3cret');
  const cases: [readonly string[], RegExp][] = [
    [[], /^error: GALORE_TOKEN holds no join token: one is a single word of at most 256 characters\n$/],
    [['--token', 's3cret\ts3cret'], /^error: --token holds no join token/],
    [['--token-file', 'empty'], /empty is empty; it should hold a join token\n$/],
    [['--token-file', 'essay'], /essay holds no join token/],
    [['--token-file', 'none'], /none does not exist\n$/],
    [['--token-file', 'empty', '--token', 's3cret'], /both given; one is enough/],
  ];
  for (const [flags, said] of cases) {
    w.err.text = '';
    t.is(await w.run('trainer', 'ws://127.0.0.1', ...flags), 2, flags.join(' '));
    t.regex(w.err.text, said);
    t.notRegex(w.err.text, /s3cret/);
  }
});

test('a token that others could read, in its file or on its way, is warned of', async (t) => {
  const w = joining(t);
  writeFileSync(join(w.dir, 'token'), 'x', { mode: 0o644 });
  void w.run('trainer', 'ws://10.0.0.7', '--token-file', 'token');
  await w.options;
  t.regex(w.err.text, /the token travels unencrypted/);
  if (process.platform !== 'win32') t.regex(w.err.text, /other users can read .*token: chmod 600/);
});

test('the files for TLS are looked at before anything is done with them', async (t) => {
  const w = joining(t);
  const { cert, key } = pairPaths('trainer');
  void w.run('trainer', 'wss://10.0.0.7', '--ca', pemPath('ca'), '--cert', cert, '--key', key);
  t.deepEqual((await w.options).tls, { ca: pemPath('ca'), cert, key });
  const cases: [readonly string[], RegExp][] = [
    [['ws://10.0.0.7', '--ca', pemPath('ca')], /--ca is for wss:\/\/ addresses/],
    [['wss://10.0.0.7', '--cert', cert], /--cert and --key go together/],
    [['wss://10.0.0.7', '--ca', 'none.pem'], /none\.pem does not exist/],
    [['wss://10.0.0.7', '--ca', key], /holds no certificate in PEM form, but a private key/],
    [['wss://10.0.0.7', '--cert', cert, '--key', pemPath('server-key')], /is not that of the certificate/],
  ];
  for (const [args, said] of cases) {
    w.err.text = '';
    t.is(await w.run('trainer', ...args), 2);
    t.regex(w.err.text, said);
  }
});

test('a folder for what the trainer keeps is made, and needs a name that stays', async (t) => {
  const w = joining(t);
  t.is(await w.run('trainer', 'ws://127.0.0.1:1', '--state', 'kept'), 2);
  t.regex(w.err.text, /--state needs --id: by it a trainer that is started again finds what it has kept/);
  void w.run('trainer', 'ws://127.0.0.1:1', '--state', 'site/kept', '--id', 'a');
  const path = join(w.dir, 'site', 'kept');
  t.is((await w.options).stateDir, path);
  t.true(statSync(path).isDirectory());
  if (process.platform !== 'win32') t.is(statSync(path).mode & 0o777, 0o700);
});

test('several addresses have commas between them, and each is one', async (t) => {
  const w = joining(t);
  void w.run('trainer', 'ws://127.0.0.1:1, ws://127.0.0.1:2');
  t.is((await w.options).url, 'ws://127.0.0.1:1,ws://127.0.0.1:2');
  const bad = joining(t);
  t.is(await bad.run('trainer', 'ws://a:1,b:2'), 2);
  t.regex(bad.err.text, /must begin with ws/);
});
