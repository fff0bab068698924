/** The library's coordinator without trainers; test/e2e/library.test.ts has both. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  CheckpointError,
  ConfigError,
  Coordinator,
  createLogger,
  DataError,
  Trainer,
  type RunFields,
  type RunReport,
} from '../../src/index.ts';
import { TEST_TEXT, tinyConfig } from '../helpers/galore.ts';

function settingsOf(t: ExecutionContext): {
  config: RunFields;
  set: Record<string, unknown>;
  cacheDir: string;
} {
  const folder = mkdtempSync(join(tmpdir(), 'galore-library-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const config = tinyConfig(TEST_TEXT) as unknown as RunFields;
  return {
    config,
    set: { dir: join(folder, 'run'), 'coordinator.port': 0 },
    cacheDir: join(folder, 'cache'),
  };
}

test('a run is begun, stopped, and gone on with; its reports end with it', async (t) => {
  const { set, ...settings } = settingsOf(t);
  const lines: string[] = [];
  const logger = createLogger({
    level: 'debug',
    format: 'json',
    mayColour: false,
    write: (line) => void lines.push(line),
  });
  const coordinator = await Coordinator.start({ ...settings, set: { ...set, seed: 5 }, logger });
  t.regex(coordinator.url, /^ws:\/\/127\.0\.0\.1:\d+\/$/);
  t.is(coordinator.config.seed, 5);
  t.is(coordinator.config.coordinator.local_trainers, 0);
  t.regex(coordinator.localToken, /^galore_/);
  const reports: RunReport[] = [];
  const reading = (async () => {
    for await (const report of coordinator) reports.push(report);
  })();
  const summary = await coordinator.stop();
  await reading;
  t.is(summary.outcome, 'stopped');
  t.is(summary.step, 0);
  t.true(reports.every(({ type }) => type !== 'step'));
  t.true(lines.length > 0);
  t.deepEqual(await coordinator.finished, summary);

  const dir = set['dir'] as string;
  const again = await Coordinator.resume(dir, { ...settings, set: { steps: 60, 'coordinator.port': 0 } });
  t.is(again.config.steps, 60);
  t.is(again.config.seed, 5);
  await again.stop();
});

test('what cannot be used is told by its own class, with every fault, and leaves nothing behind', async (t) => {
  const { config, set, cacheDir } = settingsOf(t);
  const start = (more: Record<string, unknown>, fields: RunFields = config): Promise<Coordinator> =>
    Coordinator.start({ config: fields, set: { ...set, ...more }, cacheDir });
  const faulty = await t.throwsAsync(start({ steps: 'many', 'optimizer.lr': -1, colour: 'red' }), {
    instanceOf: ConfigError,
  });
  t.deepEqual(faulty!.faults.map(({ field }) => field).toSorted(), ['colour', 'optimizer.lr', 'steps']);
  await t.throwsAsync(start({ 'data.path': '/no/such/text' }), { instanceOf: DataError });
  t.false(existsSync(set['dir'] as string));
  const coordinator = await start({});
  await coordinator.stop();
  await t.throwsAsync(start({}), { instanceOf: CheckpointError });
  const resume = (dir: string, more: Record<string, unknown>): Promise<Coordinator> =>
    Coordinator.resume(dir, { set: more, cacheDir });
  await t.throwsAsync(resume('/no/such/run', {}), { instanceOf: ConfigError });
  await t.throwsAsync(resume(set['dir'] as string, { seed: 8 }), {
    instanceOf: ConfigError,
    message: /seed/,
  });
});

test('a trainer’s certificates are read before anything is sent', async (t) => {
  const { cacheDir } = settingsOf(t);
  const file = `${cacheDir}.pem`;
  writeFileSync(file, 'no certificate');
  const tls = { ca: file };
  await t.throwsAsync(Trainer.start({ url: 'wss://127.0.0.1:1', device: 'cpu', tls }), {
    instanceOf: DataError,
  });
});
