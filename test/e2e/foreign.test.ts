/** A trainer in another language, written from docs/protocol.md, in a real run. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { Galore, ROOT, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const hasPython =
  spawnSync('python3', ['-c', 'import sys; sys.exit(sys.version_info < (3, 10))']).status === 0;
const testWithPython = hasPython ? test.serial : test.serial.skip;
if (!hasPython)
  console.log('skipped: python3 (3.10 or newer) is not installed, so the foreign trainer cannot be run');

testWithPython(
  'a foreign trainer takes part in a step with nothing and leaves; the run ends as if it had not been',
  async (t) => {
    const run = new TestRun(
      t,
      tinyConfig(TEST_TEXT, {
        method: { name: 'full' },
        steps: 20,
        coordinator: { port: 0, start_trainers: 2 },
      }),
    );
    const coordinator = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
    const [url] = await coordinator.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
    const python = spawn('python3', ['-Bu', join(ROOT, 'test', 'foreign', 'trainer.py'), url, 'python'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.teardown(() => python.kill());
    const exited = once(python, 'exit');
    const output = text(python.stdout);
    const trainer = new Galore(t, ['trainer', url, '--id', 'a']);
    t.deepEqual(await exited, [0, null], coordinator.output);
    t.regex(
      await output,
      /^welcome .*\nstate of record 0\nassigned step 1\nrecord 1 of step 1 is good\nleft\n$/,
    );
    t.is(await coordinator.exited, 0, coordinator.output);
    t.is(await trainer.exited, 0, trainer.output);
    t.deepEqual(
      run.metrics.map(({ step, trainers }) => [step, trainers]),
      Array.from({ length: 20 }, (_, index) => [index + 1, 1]),
    );
  },
);
