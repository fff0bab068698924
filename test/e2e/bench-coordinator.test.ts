/** `galore bench coordinator`, with a real coordinator in a process of its own. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Galore, galore, temporaryFolder } from '../helpers/galore.ts';

/** The folder for temporary files, for the time of the test. */
function temporaryFiles(t: ExecutionContext): string {
  const before = process.env['TMPDIR'];
  const folder = temporaryFolder(t);
  process.env['TMPDIR'] = folder;
  t.teardown(() => {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
  });
  return folder;
}

const SMALL = ['bench', 'coordinator', '--trainers', '2', '--payload-bytes', '100000'];

test.serial(
  'bench coordinator --json tells what a step costs the coordinator, and leaves nothing',
  async (t) => {
    const folder = temporaryFiles(t);
    const { code, output } = await galore(t, ...SMALL, '--steps', '2', '--json');
    t.is(code, 0, output);
    const result = JSON.parse(output.trim().split('\n').at(-1)!) as Record<string, number>;
    t.like(result, { trainers: 2, codec: 'int8', steps: 2 });
    t.true(Math.abs(result['payloadBytes']! / 100_000 - 1) <= 0.02, output);
    const { secondsPerStep, cpuSeconds, cpuSecondsPerStep, clientCpuSeconds, coordinatorRssBytes } = result;
    t.true(secondsPerStep! > 0 && secondsPerStep! < 10, output);
    t.true(clientCpuSeconds! > 0 && cpuSeconds! > 0, output);
    t.is(cpuSecondsPerStep, cpuSeconds! / 2);
    t.true(coordinatorRssBytes! > 30e6 && coordinatorRssBytes! < 400e6, output);
    t.deepEqual(readdirSync(folder), []);
  },
);

test.serial(
  'Ctrl-C ends bench coordinator and its coordinator and removes the folder of the run',
  async (t) => {
    const folder = temporaryFiles(t);
    const bench = new Galore(t, [...SMALL, '--idle', '--seconds', '600']);
    const hasRun = (): boolean => {
      const [name] = readdirSync(folder);
      return name !== undefined && readdirSync(join(folder, name)).includes('run');
    };
    while (!hasRun() && bench.child.exitCode === null) await pause(10);
    bench.child.kill('SIGINT');
    t.is(await bench.exited, 130, bench.output);
    t.deepEqual(readdirSync(folder), []);
  },
);
