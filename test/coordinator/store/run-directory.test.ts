import { chmod, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { CheckpointError, OperatingError } from '../../../src/errors.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import {
  createRunDirectory,
  openRunDirectory,
  readRunDirectory,
} from '../../../src/coordinator/store/run-directory.ts';
import { FaultyDisk } from '../../faulty-disk.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { writeCheckpoint } from './checkpoints.ts';
import { makeRecords } from './records.ts';

const RUN = { runId: 'abc-123', name: 'demo', configYaml: 'name: demo\nsteps: 5\n' };

test.serial('a run directory is made with its parts and opened again', async (t) => {
  const dir = join(temporaryDir(t), 'runs', 'demo');
  const made = await createRunDirectory(dir, RUN);
  t.like(made, {
    path: dir,
    ...RUN,
    journalDir: join(dir, 'journal'),
    checkpointsDir: join(dir, 'checkpoints'),
  });
  t.deepEqual((await readdir(dir)).sort(), ['checkpoints', 'journal', 'lock', 'run-id.json', 'run.yaml']);
  t.is(await readFile(join(dir, 'run.yaml'), 'utf8'), RUN.configYaml);
  t.like(await readRunDirectory(dir), RUN); // reading needs no lock
  await t.throwsAsync(openRunDirectory(dir), { instanceOf: OperatingError, message: /is in use by process/ });
  await made.close();
  const opened = await openRunDirectory(dir);
  t.like(opened, { ...RUN, metricsPath: join(dir, 'metrics.jsonl') });
  await opened.close();
  t.false((await readdir(dir)).includes('lock'));
});

test.serial('a directory that holds a run is refused with its name, step and what to do', async (t) => {
  const dir = temporaryDir(t);
  await (await createRunDirectory(dir, RUN)).close();
  const refused = async (step: number): Promise<void> => {
    const message = `${dir} already holds run demo at step ${step}; continue it with: galore resume ${dir}, or choose another --dir`;
    await t.throwsAsync(createRunDirectory(dir, { ...RUN, runId: 'other' }), {
      instanceOf: CheckpointError,
      message,
    });
  };
  await writeCheckpoint(join(dir, 'checkpoints'), 2);
  await refused(2);
  const journal = await Journal.open(join(dir, 'journal'), () => {});
  for (const { frames, summary } of makeRecords(3)) await journal.append(frames, summary);
  await journal.close();
  await refused(3);
});

test.serial('a start that was cut off before its first checkpoint can be made again', async (t) => {
  const dir = temporaryDir(t);
  await (await createRunDirectory(dir, RUN)).close();
  await mkdir(join(dir, 'checkpoints', '.tmp-step-000000-abcdef'));
  const again = await createRunDirectory(dir, { ...RUN, runId: 'other' });
  t.like(await readRunDirectory(dir), { runId: 'other' });
  await again.close();
});

test.serial(
  'a directory of something else is refused, one whose making was interrupted is not',
  async (t) => {
    const foreign = temporaryDir(t);
    await writeFile(join(foreign, 'thesis.tex'), '');
    await t.throwsAsync(createRunDirectory(foreign, RUN), {
      instanceOf: CheckpointError,
      message: /is not empty \(thesis\.tex is in it\)/,
    });
    t.deepEqual(await readdir(foreign), ['thesis.tex']);
    let crashes = 0;
    for (let n = 1; ; n++) {
      const dir = join(temporaryDir(t), 'run');
      const disk = await FaultyDisk.crashingAt(n);
      const outcome = await createRunDirectory(dir, RUN).then(
        () => 'done',
        () => 'crashed',
      );
      disk.restore();
      await rm(join(dir, 'lock'), { force: true }); // this process lives on
      const isMade = await readRunDirectory(dir).then(
        () => true,
        () => false,
      );
      const run = await (isMade ? openRunDirectory(dir) : createRunDirectory(dir, RUN));
      t.like(run, RUN);
      await run.close();
      if (outcome === 'done') break;
      crashes++;
    }
    t.true(crashes > 10, `${crashes} crashes`);
  },
);

test.serial('tokens may be made before the run, and stay when its start is taken back', async (t) => {
  const dir = temporaryDir(t);
  await writeFile(join(dir, 'tokens.json'), '{}');
  const run = await createRunDirectory(dir, RUN);
  await run.close();
  await run.discard();
  t.deepEqual(await readdir(dir), ['tokens.json']);
});

test.serial('what is not a run directory says why', async (t) => {
  const dir = temporaryDir(t);
  const refused = async (path: string, message: RegExp): Promise<void> => {
    await t.throwsAsync(openRunDirectory(path), { instanceOf: CheckpointError, message });
    await t.throwsAsync(readRunDirectory(path), { instanceOf: CheckpointError, message });
  };
  await refused(join(dir, 'none'), /none does not exist$/);
  await refused(dir, /is not a run directory: it has no run-id\.json$/);
  const { path } = await writeCheckpoint(join(dir, 'checkpoints'), 1);
  await refused(path, /it looks like a checkpoint/);
  await writeFile(join(dir, 'file'), '');
  await refused(join(dir, 'file'), /file is not a directory$/);
  const marker = join(dir, 'run-id.json');
  await writeFile(marker, '{');
  await refused(dir, /run-id\.json is damaged: it is not JSON/);
  await writeFile(marker, '{"formatVersion":2,"runId":"a","name":"b"}');
  await refused(dir, /run-id\.json is damaged: formatVersion: /);
  await writeFile(marker, '{"formatVersion":1,"runId":"a","name":"b"}');
  await refused(dir, /is damaged: run\.yaml is missing/);
});

test.serial(
  'a file in place of the directory, no permission, a read-only or full disk are operating errors',
  async (t) => {
    const dir = temporaryDir(t);
    await writeFile(join(dir, 'file'), '');
    const failed = async (path: string, message: RegExp): Promise<void> => {
      await t.throwsAsync(createRunDirectory(path, RUN), { instanceOf: OperatingError, message });
    };
    await failed(join(dir, 'file'), /cannot create .*file: /);
    await failed(join(dir, 'file', 'run'), /part of the path is not a directory/);
    for (const [code, words] of [
      ['EACCES', /permission denied \(EACCES\)/],
      ['EROFS', /the file system is read-only \(EROFS\)/],
      ['ENOSPC', /no space left on the disk \(ENOSPC\)/],
    ] as const) {
      for (const call of ['mkdir', 'open', 'link'] as const) {
        const path = join(dir, `${code}-${call}`);
        const disk = await FaultyDisk.install(({ name }) => (name === call ? code : null));
        try {
          await failed(path, words);
        } finally {
          disk.restore();
        }
      }
    }
    if (process.getuid?.() !== 0) {
      await mkdir(join(dir, 'closed'));
      await chmod(join(dir, 'closed'), 0o500);
      await failed(join(dir, 'closed'), /permission denied/);
    }
  },
);

test.serial('opening removes what a crash left of a checkpoint', async (t) => {
  const dir = temporaryDir(t);
  const run = await createRunDirectory(dir, RUN);
  await mkdir(join(run.checkpointsDir, '.tmp-step-000001-x'));
  await run.close();
  t.deepEqual(await readdir(run.checkpointsDir), ['.tmp-step-000001-x']);
  await readRunDirectory(dir);
  t.deepEqual(await readdir(run.checkpointsDir), ['.tmp-step-000001-x']);
  await (await openRunDirectory(dir)).close();
  t.deepEqual(await readdir(run.checkpointsDir), []);
});
