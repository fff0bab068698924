/** What a run leaves can be measured and made to speak, from its directory and as a plain model folder. */
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

test.serial(
  'eval finds the loss that the run measured; generate repeats itself for the same seed',
  async (t) => {
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { steps: 12, evaluation: { every: 0, sequences: 0 } }));
    await run.train(1);

    const measured = await galore(t, 'eval', run.dir, '--json');
    t.is(measured.code, 0, measured.output);
    const { loss, step } = JSON.parse(measured.output) as { loss: number; step: number };
    t.is(step, 12);
    t.true(Math.abs(loss - (run.evaluations.at(-1)?.loss ?? NaN)) < 1e-5, `${loss}`);

    const generate = (folder: string, ...more: readonly string[]) =>
      galore(t, 'generate', folder, '--prompt', 'the ', '--max-tokens', '12', ...more);
    const [first, again, other] = [
      await generate(run.dir, '--seed', '1'),
      await generate(run.dir, '--seed', '1'),
      await generate(run.dir, '--seed', '2'),
    ];
    t.is(first.code, 0, first.output);
    t.true(first.output.startsWith('the '));
    t.is(again.output, first.output);
    t.not(other.output, first.output);

    // The same checkpoint, taken out of the run: only what every Hugging Face folder has.
    const folder = join(run.folder, 'elsewhere');
    cpSync(run.checkpoint(12), folder, { recursive: true });
    for (const name of ['manifest.json', 'run.json', 'optimizer.safetensors', 'projections.safetensors']) {
      rmSync(join(folder, name), { force: true });
    }
    t.is((await generate(folder, '--seed', '1')).output, first.output);
    const onFile = await galore(
      t,
      'eval',
      folder,
      '--data',
      TEST_TEXT,
      '--seq-len',
      '32',
      '--sequences',
      '10',
      '--json',
    );
    t.is(onFile.code, 0, onFile.output);
    t.like(JSON.parse(onFile.output), { step: null, sequences: 10, tokens: 320 });
  },
);

test.serial(
  '--stop-at stops after that step, resume --steps goes on, and the new length holds',
  async (t) => {
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { steps: 20 }));
    const stopped = await galore(t, ...run.trainArgs(1, '--stop-at', '3'));
    t.is(stopped.code, 0, stopped.output);
    t.regex(stopped.output, /stopped after step 3 of 20\n/);
    const resumed = await galore(t, 'resume', run.dir, '--steps', '5', '--stop-at', '4');
    t.is(resumed.code, 0, resumed.output);
    t.regex(resumed.output, /stopped after step 4 of 5\n/);
    const ended = await galore(t, 'resume', run.dir);
    t.is(ended.code, 0, ended.output);
    t.deepEqual(
      run.metrics.map(({ step }) => step),
      [1, 2, 3, 4, 5],
    );
    const tooShort = await galore(t, 'resume', run.dir, '--steps', '4');
    t.is(tooShort.code, 2, tooShort.output);
    t.regex(tooShort.output, /steps is 4; it must be at least 5/);
  },
);
