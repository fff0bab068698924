import test from 'ava';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { acquireLock, withLock } from '#scripts/lock';
import { ROOT } from '#scripts/setup';
import { emptyFolder } from './folder.ts';

const QUICK = { pollMs: 1 };

function holder(fields: { pid: number; host?: string; started?: string }): string {
  return JSON.stringify({ host: hostname(), ...fields });
}

/** The id of a process that has ended. */
function deadPid(): number {
  return spawnSync(process.execPath, ['--version']).pid;
}

test('five holders in a row never overlap', async (t) => {
  const path = join(emptyFolder(t), 'deep/er/lock');
  let holders = 0;
  let most = 0;
  const work = async () => {
    most = Math.max(most, ++holders);
    await readFile(path); // gives the others a turn
    holders--;
  };
  await Promise.all(Array.from({ length: 5 }, () => withLock(path, work, QUICK)));
  t.is(most, 1);
  t.false(existsSync(path));
});

test('the lock is given back when the guarded work fails', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  const work = () => {
    throw new Error('disk on fire');
  };
  await t.throwsAsync(withLock(path, work, QUICK), { message: 'disk on fire' });
  t.false(existsSync(path));
});

test('a waiter is told once who holds the lock', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  const release = await acquireLock(path, QUICK);
  const told: string[] = [];
  const onWait = (who: string) => {
    told.push(who);
    release();
  };
  (await acquireLock(path, { ...QUICK, onWait }))();
  t.deepEqual(told, [`process ${process.pid}`]);
});

test('a lock whose holder has ended is taken over', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  writeFileSync(path, holder({ pid: deadPid() }));
  const release = await acquireLock(path, { onWait: () => t.fail('waited for a dead process') });
  t.is((JSON.parse(readFileSync(path, 'utf8')) as { pid: number }).pid, process.pid);
  release();
});

test('a lock whose process id now belongs to another process is taken over', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  writeFileSync(path, holder({ pid: process.pid, started: '1' }));
  (await acquireLock(path, { onWait: () => t.fail('waited for another process') }))();
  t.pass();
});

test('a lock held by a killed process is taken over', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  const program = `
    import { acquireLock } from ${JSON.stringify(join(ROOT, 'scripts/lock.mjs'))};
    await acquireLock(${JSON.stringify(path)});
    process.stdout.write('held');
    process.stdin.resume();`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const told: string[] = [];
  const onWait = (who: string) => {
    told.push(who);
    child.kill('SIGKILL');
  };
  (await acquireLock(path, { ...QUICK, onWait }))();
  t.deepEqual(told, [`process ${child.pid}`]);
});

test('a lock held on another machine is waited for', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  writeFileSync(path, holder({ pid: 1, host: 'elsewhere' }));
  const told: string[] = [];
  const onWait = (who: string) => {
    told.push(who);
    rmSync(path);
  };
  (await acquireLock(path, { ...QUICK, onWait }))();
  t.deepEqual(told, ['process 1']);
});

test('a lock held on another machine that has been silent for long is taken over', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  writeFileSync(path, holder({ pid: 1, host: 'elsewhere' }));
  utimesSync(path, 0, 0);
  (await acquireLock(path, { onWait: () => t.fail('waited for a silent machine') }))();
  t.pass();
});

test('a lock that names no holder is waited for, and taken over after a silence', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  writeFileSync(path, '{"pi');
  const told: string[] = [];
  const onWait = (who: string) => {
    told.push(who);
    utimesSync(path, 0, 0);
  };
  (await acquireLock(path, { ...QUICK, onWait }))();
  t.deepEqual(told, ['another process']);
});

test('giving back a lock that another holder has taken over leaves it to that holder', async (t) => {
  const path = join(emptyFolder(t), 'lock');
  const release = await acquireLock(path);
  writeFileSync(path, holder({ pid: 1, host: 'elsewhere' }));
  release();
  t.true(existsSync(path));
});
