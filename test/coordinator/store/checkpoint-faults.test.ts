/** Crashes and a full disk while a checkpoint is written. Serial: the disk is replaced for the whole process. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { OperatingError } from '../../../src/errors.ts';
import {
  openNewestCheckpoint,
  pruneCheckpoints,
  removeCheckpointLeftovers,
} from '../../../src/coordinator/store/checkpoint.ts';
import { FaultyDisk } from '../../faulty-disk.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { expectedState, readState, writeCheckpoint } from './checkpoints.ts';

const unexpected = (text: string): never => {
  throw new Error(`unexpected notice: ${text}`);
};

for (const isPowerLost of [false, true]) {
  for (const isReplacing of [false, true]) {
    const what = `${isPowerLost ? 'a power failure' : 'a kill'} between any two writes`;
    const how = isReplacing
      ? 'replaces a checkpoint whole or not at all'
      : 'leaves the new checkpoint whole or none';
    test.serial(`${what} ${how}`, async (t) => {
      let crashes = 0;
      for (let n = 1; ; n++) {
        const dir = join(temporaryDir(t), 'checkpoints');
        await writeCheckpoint(dir, 1);
        if (isReplacing) await writeCheckpoint(dir, 2);
        const disk = await FaultyDisk.crashingAt(n);
        const outcome = await writeCheckpoint(dir, 2).then(
          () => 'done',
          () => 'crashed',
        );
        if (isPowerLost) await disk.failPower();
        else disk.restore();
        await removeCheckpointLeftovers(dir);
        const checkpoint = await openNewestCheckpoint(dir, unexpected);
        const step = checkpoint?.step ?? 0;
        t.true(
          step === 2 || (step === 1 && outcome === 'crashed' && !isReplacing),
          `call ${n}: step ${step}`,
        );
        t.deepEqual(await readState(checkpoint!), expectedState(step));
        await checkpoint?.close();
        t.deepEqual(
          (await readdir(dir)).filter((name) => name.startsWith('.')),
          [],
        );
        if (outcome === 'done') break;
        crashes++;
      }
      t.true(crashes > 30, `${crashes} crashes`);
    });
  }
}

test.serial(
  'a full disk gives an error with the path, and the abandoned checkpoint leaves nothing',
  async (t) => {
    let failures = 0;
    for (let n = 1; ; n++) {
      const dir = temporaryDir(t);
      await writeCheckpoint(dir, 1);
      let writes = 0;
      const disk = await FaultyDisk.install(({ name }) =>
        name === 'write' && ++writes === n ? 'ENOSPC' : null,
      );
      const outcome = await writeCheckpoint(dir, 2).then(
        () => 'done',
        (error: unknown) => error,
      );
      disk.restore();
      if (outcome === 'done') break;
      failures++;
      t.true(outcome instanceof OperatingError);
      t.true(
        (outcome as Error).message.includes(dir) && /no space left/.test((outcome as Error).message),
        String(outcome),
      );
      t.deepEqual(await readdir(dir), ['step-000001']);
    }
    t.true(failures > 10);
  },
);

test.serial('a crash while old checkpoints are deleted leaves whole ones and leftovers', async (t) => {
  for (let n = 1; ; n++) {
    const dir = temporaryDir(t);
    for (const step of [1, 2, 3]) await writeCheckpoint(dir, step);
    const disk = await FaultyDisk.crashingAt(n);
    const outcome = await pruneCheckpoints(dir, 1).then(
      () => 'done',
      () => 'crashed',
    );
    disk.restore();
    await removeCheckpointLeftovers(dir);
    const names = await readdir(dir);
    t.true(
      names.includes('step-000003') && names.every((name) => /^step-00000[123]$/.test(name)),
      names.join(),
    );
    if (outcome === 'done') break;
  }
});
