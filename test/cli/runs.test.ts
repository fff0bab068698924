/** The commands that carry out a run, with a coordinator that does what the test says. */
import test from 'ava';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseRunConfig, resolvedYaml } from '../../src/config/load.ts';
import { parseOverride } from '../../src/config/overrides.ts';
import { CheckpointError, OperatingError } from '../../src/errors.ts';
import {
  FakeStream,
  RUN_YAML,
  STEP,
  settle,
  summary,
  world,
  writeRunDirectory,
  type World,
} from './fakes.ts';

/** run.yaml as a coordinator writes it. */
function savedYaml(dir: string, ...settings: readonly string[]): string {
  return resolvedYaml(
    parseRunConfig(RUN_YAML, 'run.yaml', {
      workingDir: dir,
      homeDir: '/home/ann',
      overrides: settings.map(parseOverride),
    }),
  );
}

function ids(w: World): readonly (string | undefined)[] {
  return w.processes.map(({ args }) => args[args.indexOf('--id') + 1]);
}

test('train starts a coordinator and as many trainers as asked, which share the cores', async (t) => {
  const w = world(t);
  const running = w.run('train', 'run.yaml', '--trainers', '3');
  const options = await w.coordinator.started.promise;
  await settle();
  t.is(options.mode, 'new');
  t.is(options.cacheDir, '/cache');
  t.like(options.config.coordinator, { start_trainers: 3, local_trainers: 3 });
  t.deepEqual(ids(w), ['trainer-1', 'trainer-2', 'trainer-3']);
  t.deepEqual(w.processes[0]?.args, [
    ...['trainer', 'ws://127.0.0.1:29401/', '--id', 'trainer-1', '--run', 'tiny'],
    ...['--threads', '2', '--device', 'cpu', '--precision', 'f32', '--quiet', '--log-level', 'warn'],
  ]);
  options.onReport({ type: 'checkpoint', step: 60, path: join(w.dir, 'runs/tiny/checkpoints/step-000060') });
  for (const process of w.processes) process.events.onExit(0, 'exit code 0');
  w.coordinator.finished.resolve(summary(join(w.dir, 'runs/tiny')));
  t.is(await running, 0);
  t.regex(w.out.text, /^checkpoint of step 60: runs\/tiny\/checkpoints\/step-000060\ndone: /);
  t.regex(
    w.out.text,
    /^done: 60 steps, loss 4\.5000, validation perplexity 95\.2\ncheckpoint: runs\/tiny\/checkpoints/m,
  );
  t.regex(w.out.text, /to try it: galore generate runs\/tiny --prompt "/);
});

test('the trainers of train get the devices chosen for them', async (t) => {
  const w = world(t, {
    services: {
      ensureEngine: (wish, count = 0) => {
        t.is(wish, 'auto');
        const names = (['gpu:0', 'gpu:1', 'gpu:0'] as const).slice(0, count);
        return Promise.resolve(names.map((name) => ({ name, folder: '/engine', gpu: null })));
      },
    },
  });
  void w.run('train', 'run.yaml', '--trainers', '3');
  await w.coordinator.started.promise;
  await settle();
  t.deepEqual(
    w.processes.map(({ args }) => args[args.indexOf('--device') + 1]),
    ['gpu:0', 'gpu:1', 'gpu:0'],
  );
});

test('--device of train is trainer.device, for all its trainers', async (t) => {
  const w = world(t);
  void w.run('train', 'run.yaml', '--trainers', '2', '--device', 'gpu:1');
  const { config } = await w.coordinator.started.promise;
  await settle();
  t.is(config.trainer.device, 'gpu:1');
  for (const { args } of w.processes) t.is(args[args.indexOf('--device') + 1], 'gpu:1');
  const wrong = world(t);
  t.is(await wrong.run('train', 'run.yaml', '--device', 'cuda'), 2);
  t.regex(wrong.err.text, /trainer\.device.*cuda.*auto, cpu, or gpu: and a number such as gpu:0/s);
});

test('train without --trainers starts what the file says', async (t) => {
  for (const [settings, count] of [
    [[], 1],
    [['--set', 'coordinator.start_trainers=2'], 2],
    [['--set', 'coordinator={start_trainers: 1, local_trainers: 2}'], 2],
  ] as const) {
    const w = world(t);
    const running = w.run('train', 'run.yaml', ...settings);
    const { config } = await w.coordinator.started.promise;
    await settle();
    t.is(w.processes.length, count);
    t.is(config.coordinator.local_trainers, count);
    for (const process of w.processes) process.events.onExit(0, 'exit code 0');
    w.coordinator.finished.resolve(summary(w.dir));
    await running;
  }
});

test('threads of the configuration go before the share of the cores, and a crowd gets one each', async (t) => {
  for (const [settings, threads] of [
    [['--set', 'trainer.threads=5'], '5'],
    [['--trainers', '12'], '1'],
  ] as const) {
    const w = world(t);
    void w.run('train', 'run.yaml', ...settings);
    await w.coordinator.started.promise;
    await settle();
    const args = w.processes[0]?.args ?? [];
    t.is(args[args.indexOf('--threads') + 1], threads);
  }
});

test('shorthand flags and --set win in the order given', async (t) => {
  const w = world(t);
  void w.run(
    'train',
    'run.yaml',
    '--steps',
    '5',
    '--set',
    'steps=6',
    '--seed',
    '9',
    '--steps',
    '7',
    '--stop-at',
    '3',
  );
  const { config, stopAtStep } = await w.coordinator.started.promise;
  t.is(config.steps, 7);
  t.is(config.seed, 9);
  t.is(stopAtStep, 3);
});

test('a configuration with faults starts nothing and is bad input', async (t) => {
  const w = world(t);
  t.is(await w.run('train', 'run.yaml', '--steps', 'many', '--trainers', '0'), 2);
  t.regex(w.err.text, /^error: run\.yaml has 2 faults:\n {2}--steps many: steps is many;/);
  t.regex(w.err.text, /--trainers 0: coordinator\.start_trainers is 0; allowed: a whole number at least 1/);
  t.is(await w.run('coordinator', 'none.yaml'), 2);
  t.regex(w.err.text, /error: cannot read none\.yaml: no such file/);
  t.is(w.processes.length, 0);
});

test('--print-config prints YAML that gives the same configuration and starts nothing', async (t) => {
  const w = world(t);
  t.is(await w.run('train', 'run.yaml', '--trainers', '2', '--set', 'optimizer.lr=0.5', '--print-config'), 0);
  writeFileSync(join(w.dir, 'printed.yaml'), w.out.text);
  const first = w.out.text;
  t.regex(first, /^ {2}lr: 0\.5$/m);
  t.regex(first, /^ {2}local_trainers: 2$/m);
  w.out.text = '';
  t.is(await w.run('train', 'printed.yaml', '--print-config'), 0);
  t.is(w.out.text, first);
  t.is(w.processes.length, 0);
});

test('where runs/NAME holds a run, a new one goes to runs/NAME-2 and says so', async (t) => {
  const w = world(t);
  writeRunDirectory(join(w.dir, 'runs/tiny'), savedYaml(w.dir));
  void w.run('train', 'run.yaml');
  const { config } = await w.coordinator.started.promise;
  t.is(config.dir, join(w.dir, 'runs/tiny-2'));
  t.is(
    w.out.text,
    'runs/tiny holds a run already (to go on with it: galore resume runs/tiny); this one goes to runs/tiny-2\n',
  );
});

test('a directory that was chosen is not replaced by another', async (t) => {
  const w = world(t);
  writeRunDirectory(join(w.dir, 'runs/tiny'), savedYaml(w.dir));
  void w.run('train', 'run.yaml', '--dir', 'runs/tiny');
  t.is((await w.coordinator.started.promise).config.dir, join(w.dir, 'runs/tiny'));
});

test('coordinator starts no trainers, whatever the file says, and tells how to join', async (t) => {
  const w = world(t);
  void w.run('coordinator', 'run.yaml', '--trainers', '2', '--set', 'coordinator.local_trainers=2');
  const { config } = await w.coordinator.started.promise;
  await settle();
  t.like(config.coordinator, { start_trainers: 2, local_trainers: 0 });
  t.is(w.processes.length, 0);
  t.is(
    w.out.text,
    'listening on ws://127.0.0.1:29400/; waiting for 2 to join: galore trainer ws://127.0.0.1:29400/\n',
  );
});

test('--insecure is coordinator.insecure, for every command that listens', async (t) => {
  for (const command of ['coordinator', 'train']) {
    const w = world(t);
    void w.run(command, 'run.yaml', '--set', 'coordinator.host=0.0.0.0', '--insecure');
    t.like((await w.coordinator.started.promise).config.coordinator, { host: '0.0.0.0', insecure: true });
    const without = world(t);
    void without.run(command, 'run.yaml');
    t.false((await without.coordinator.started.promise).config.coordinator.insecure);
  }
});

test('trainers that a command starts get their token in the environment, not in an argument', async (t) => {
  const w = world(t);
  void w.run('train', 'run.yaml');
  await w.coordinator.started.promise;
  await settle();
  t.deepEqual(w.processes[0]?.environment, { GALORE_TOKEN: 'galore_local' });
  t.false(w.processes[0]?.args.join(' ').includes('galore_local'));
  t.true(w.processes[0]?.args.includes('ws://127.0.0.1:29401/'));
});

test('the first Ctrl-C stops in good order and ends with the command that goes on', async (t) => {
  const w = world(t);
  const running = w.run('train', 'run.yaml');
  await w.coordinator.started.promise;
  await settle();
  w.signal('SIGINT');
  t.is(w.coordinator.stops, 1);
  t.regex(w.out.text, /stopping after this step, with a checkpoint; again to quit at once\n$/);
  t.deepEqual(w.processes[0]?.signals, []); // it is needed for the checkpoint
  w.coordinator.finished.resolve(summary(join(w.dir, "runs/it's"), { outcome: 'stopped', step: 12 }));
  await settle();
  t.deepEqual(w.processes[0]?.signals, ['SIGTERM']);
  w.processes[0]?.events.onExit(0, 'exit code 0');
  t.is(await running, 0);
  t.regex(w.out.text, /stopped after step 12 of 60\n/);
  t.regex(w.out.text, /to go on: galore resume 'runs\/it'\\''s'\n$/);
  t.deepEqual(w.exits, []);
  t.deepEqual(w.signals.eventNames(), []); // nobody listens any more
});

test('a coordinator whose parent is gone stops in good order', async (t) => {
  const w = world(t, { hasParent: true });
  const running = w.run('coordinator', 'run.yaml');
  await w.coordinator.started.promise;
  await settle();
  w.parent.gone();
  t.is(w.coordinator.stops, 1);
  w.coordinator.finished.resolve(summary(join(w.dir, 'runs/a'), { outcome: 'stopped', step: 12 }));
  t.is(await running, 0);
});

test('the second Ctrl-C kills the trainers and ends at once with 130', async (t) => {
  const w = world(t);
  void w.run('train', 'run.yaml', '--trainers', '2');
  await w.coordinator.started.promise;
  await settle();
  w.signal('SIGINT');
  w.signal('SIGTERM');
  t.deepEqual(w.exits, [130]);
  t.deepEqual(
    w.processes.map(({ signals }) => signals),
    [['SIGKILL'], ['SIGKILL']],
  );
  t.is(w.coordinator.stops, 2);
});

test('Ctrl-C while the run is still being opened stops it as soon as it is open', async (t) => {
  const w = world(t, { isOpeningHeld: true });
  const running = w.run('train', 'run.yaml');
  await w.coordinator.started.promise;
  w.signal('SIGINT');
  t.regex(w.out.text, /stopping as soon as the run has been opened/);
  w.coordinator.opened.resolve();
  await settle();
  t.is(w.coordinator.stops, 1);
  t.is(w.processes.length, 0);
  w.coordinator.finished.resolve(summary(w.dir, { outcome: 'stopped', step: 0 }));
  t.is(await running, 0);
});

test('when no trainer is left the run is given up with 3, the reasons, and the way back', async (t) => {
  const w = world(t);
  const running = w.run('train', 'run.yaml', '--trainers', '2');
  await w.coordinator.started.promise;
  await settle();
  w.processes[0]?.events.onLine('error: the engine could not be loaded');
  w.processes[0]?.events.onExit(3, 'exit code 3');
  w.processes[1]?.events.onExit(3, 'exit code 3');
  t.is(w.coordinator.stops, 2);
  w.coordinator.finished.resolve(
    summary(join(w.dir, 'runs/tiny'), { outcome: 'stopped', step: 7, checkpointPath: null }),
  );
  t.is(await running, 3);
  t.regex(w.err.text, /^trainer-1 \| error: the engine could not be loaded\n/);
  t.regex(
    w.err.text,
    /error: no trainer is left \(trainer-1: exit code 3: error: the engine could not be loaded; trainer-2: exit code 3\); 7 of 60 steps are kept\nto go on: galore resume runs\/tiny\n$/,
  );
});

test('when a run was complete already its trainers are sent away at once, and what they say is no news', async (t) => {
  const w = world(t);
  writeRunDirectory(join(w.dir, 'kept'), savedYaml(w.dir, 'coordinator.local_trainers=1'));
  const running = w.run('resume', 'kept');
  await w.coordinator.started.promise;
  await settle();
  w.coordinator.finished.resolve(summary(join(w.dir, 'kept'), { lastLoss: NaN }));
  await settle();
  t.deepEqual(w.processes[0]?.signals, ['SIGTERM']);
  w.processes[0]?.events.onLine('connect ECONNREFUSED');
  w.processes[0]?.events.onExit(0, 'exit code 0');
  t.is(await running, 0);
  t.is(w.err.text, '');
});

test('a coordinator that fails ends the trainers, and its error decides the code', async (t) => {
  const w = world(t);
  const running = w.run('train', 'run.yaml');
  await w.coordinator.started.promise;
  await settle();
  w.coordinator.finished.reject(new OperatingError('the disk is full'));
  await settle();
  t.deepEqual(w.processes[0]?.signals, ['SIGTERM']);
  w.processes[0]?.events.onExit(0, 'exit code 0');
  t.is(await running, 3);
  t.is(
    w.err.text,
    'error: the disk is full; every committed step is kept\nto go on: galore resume runs/tiny\n',
  );
});

test('all steps without a checkpoint of the last are no success: 3, the reason, and the way to make it', async (t) => {
  for (const outcome of ['completed', 'stopped'] as const) {
    const w = world(t);
    const running = w.run('train', 'run.yaml');
    await w.coordinator.started.promise;
    await settle();
    const checkpointFailure = 'the disk is full';
    w.coordinator.finished.resolve(summary(join(w.dir, 'runs/tiny'), { outcome, checkpointFailure }));
    await settle();
    w.processes[0]?.events.onExit(0, 'exit code 0');
    t.is(await running, 3);
    t.is(
      w.err.text,
      'error: there is no checkpoint of step 60: the disk is full; 60 of 60 steps are kept\n' +
        'to go on: galore resume runs/tiny\n',
    );
    t.notRegex(w.out.text, /done|to try it/);
  }
});

test('a coordinator that cannot start is one message without a stack', async (t) => {
  const w = world(t, {
    services: { startCoordinator: () => Promise.reject(new CheckpointError('/r', '/r is damaged')) },
  });
  t.is(await w.run('train', 'run.yaml'), 3);
  t.is(w.err.text, 'error: /r is damaged\n');
  t.deepEqual(w.signals.eventNames(), []);
});

test('progress is plain lines in a pipe and a status line on a terminal', async (t) => {
  const pipe = world(t);
  void pipe.run('train', 'run.yaml');
  (await pipe.coordinator.started.promise).onReport(STEP);
  t.is(pipe.out.text.split('  ')[0], 'step 12/60');
  const terminal = world(t, { out: new FakeStream(true, 200) });
  void terminal.run('train', 'run.yaml');
  (await terminal.coordinator.started.promise).onReport(STEP);
  t.true(terminal.out.text.startsWith('\r\u001b[2Kstep 12/60 · loss 5.12 · '));
});

test('--log-json writes every line as a JSON object', async (t) => {
  const w = world(t);
  const running = w.run('train', 'run.yaml', '--log-json');
  const { onReport, logger } = await w.coordinator.started.promise;
  await settle();
  onReport(STEP);
  logger.warn('trainer.slow', { trainer: 'trainer-1' }, 'trainer-1 is slow');
  w.processes[0]?.events.onLine('{"level":"warn","event":"x"}');
  w.processes[0]?.events.onLine('Segmentation fault');
  w.processes[0]?.events.onExit(0, 'exit code 0');
  w.coordinator.finished.resolve(summary(join(w.dir, 'runs/tiny'), { outcome: 'stopped' }));
  t.is(await running, 0);
  const events = (stream: FakeStream): unknown[] =>
    stream.text
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { event: unknown }).event);
  t.deepEqual(events(w.out), ['run.step', 'run.stopped']);
  t.deepEqual(events(w.err), ['trainer.slow', 'x', 'trainer.output']);
  t.like(JSON.parse(w.out.text.split('\n')[0] ?? ''), { step: 12, loss: 5.1234, bytesUp: 1_234_567 });
  t.like(JSON.parse(w.out.text.split('\n')[1] ?? ''), { resume: 'galore resume runs/tiny' });
  t.true(w.processes[0]?.args.includes('--log-json'));
});

test('resume goes on with the saved configuration, its trainers, and what may change', async (t) => {
  const w = world(t);
  writeRunDirectory(
    join(w.dir, 'kept'),
    savedYaml(w.dir, 'coordinator={local_trainers: 2, start_trainers: 2}'),
  );
  void w.run('resume', 'kept', '--steps', '500', '--set', 'checkpoint.every=7');
  const { config, mode } = await w.coordinator.started.promise;
  await settle();
  t.is(mode, 'resume');
  t.is(config.dir, join(w.dir, 'kept'));
  t.is(config.steps, 500);
  t.is(config.checkpoint.every, 7);
  t.deepEqual(ids(w), ['trainer-1', 'trainer-2']);
});

test('resume --trainers says how many are started here, 0 for none', async (t) => {
  for (const [trainers, start, local] of [
    ['3', 3, 3],
    ['0', 1, 0],
  ] as const) {
    const w = world(t);
    writeRunDirectory(join(w.dir, 'kept'), savedYaml(w.dir, 'coordinator.local_trainers=1'));
    void w.run('resume', 'kept', '--trainers', trainers);
    const { config } = await w.coordinator.started.promise;
    await settle();
    t.like(config.coordinator, { start_trainers: start, local_trainers: local });
    t.is(w.processes.length, local);
  }
});

test('resume refuses to change what the run is', async (t) => {
  const w = world(t);
  writeRunDirectory(join(w.dir, 'kept'), savedYaml(w.dir));
  t.is(await w.run('resume', 'kept', '--set', 'optimizer.lr=1'), 2);
  t.regex(
    w.err.text,
    /^error: a resumed run keeps its settings:\n {2}optimizer\.lr is 1; it stays 0\.01: the moments/,
  );
});

test('resume tells a folder that holds no run', async (t) => {
  const w = world(t);
  t.is(await w.run('resume', 'nowhere'), 2);
  t.regex(w.err.text, /error: nowhere is not a run directory: it holds no run\.yaml\n$/);
  t.false(existsSync(join(w.dir, 'nowhere')));
});
