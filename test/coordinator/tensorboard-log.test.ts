import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { TensorBoardLog } from '../../src/coordinator/tensorboard-log.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { readEvents } from '../../src/view/tensorboard.ts';

function folder(t: ExecutionContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'galore-board-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

const open = (dir: string, step: number): Promise<TensorBoardLog> =>
  TensorBoardLog.open(dir, step, SILENT_LOGGER, () => 1_700_000_000_000);

function only(dir: string): string {
  const names = readdirSync(join(dir, 'tensorboard'));
  if (names.length !== 1) throw new Error(`one file was expected: ${names.join(', ')}`);
  return join(dir, 'tensorboard', names[0]!);
}

/** `step: tags` of every event but the first. */
function told(dir: string): string[] {
  return [...readEvents(readFileSync(only(dir)))]
    .slice(1)
    .map(({ step, scalars }) => `${step}: ${scalars.map(({ tag, value }) => `${tag}=${value}`).join(' ')}`);
}

test('each line gives an event, and a run that goes on goes on in the same file without a step twice', async (t) => {
  const dir = folder(t);
  const first = await open(dir, 0);
  for (const step of [1, 2, 3]) first.addStep({ step, loss: step + 0.5 });
  first.addEvaluation({ step: 3, loss: 0.25 });
  await first.close();
  t.regex(only(dir), /events\.out\.tfevents\.1700000000\.galore$/);

  // Step 3 was not committed; the lines that are kept come again, then the new ones.
  const second = await open(dir, 2);
  for (const step of [1, 2, 3]) second.addStep({ step, loss: step + 0.5 });
  second.addEvaluation({ step: 3, loss: 0.125 });
  await second.close();
  t.deepEqual(told(dir), [
    '1: train/loss=1.5',
    '2: train/loss=2.5',
    '3: train/loss=3.5',
    '3: validation/loss=0.125',
  ]);
});

test('what a crash has left half written is cut off and written again', async (t) => {
  const dir = folder(t);
  const first = await open(dir, 0);
  for (const step of [1, 2]) first.addStep({ step, loss: step });
  await first.close();
  truncateSync(only(dir), readFileSync(only(dir)).length - 3);
  const second = await open(dir, 2);
  for (const step of [1, 2]) second.addStep({ step, loss: step });
  await second.close();
  t.deepEqual(told(dir), ['1: train/loss=1', '2: train/loss=2']);
});

test('a run that had none before gets its whole curve, but no times for lines from the journal', async (t) => {
  const dir = folder(t);
  const log = await open(dir, 2);
  log.addStep({ step: 1, loss: 4, seconds: 0, restored: true });
  log.addStep({ step: 2, loss: 3, seconds: 0.5 });
  await log.close();
  t.deepEqual(told(dir), ['1: train/loss=4', '2: train/loss=3 time/step_seconds=0.5']);
});
