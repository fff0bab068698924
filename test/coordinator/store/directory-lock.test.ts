import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { livenessOf, lockDirectory, readLockOwner } from '../../../src/coordinator/store/directory-lock.ts';
import type { LockOwner } from '../../../src/coordinator/store/directory-lock.ts';
import { OperatingError } from '../../../src/errors.ts';
import { temporaryDir } from '../../temporary-dir.ts';

const unexpected = (text: string): never => {
  throw new Error(`unexpected notice: ${text}`);
};

/** What this process writes into a lock. */
async function ownLock(dir: string): Promise<LockOwner> {
  const lock = await lockDirectory(dir, unexpected);
  const owner = JSON.parse(await readFile(join(dir, 'lock'), 'utf8')) as LockOwner;
  await lock.release();
  return owner;
}

test('a second opener is refused by process and host until the first one releases', async (t) => {
  const dir = temporaryDir(t);
  const lock = await lockDirectory(dir, unexpected);
  t.is((await readLockOwner(dir))?.liveness, 'alive');
  const error = await t.throwsAsync(lockDirectory(dir, unexpected), { instanceOf: OperatingError });
  t.true(error.message.startsWith(`${dir} is in use by process ${process.pid} on `), error.message);
  await lock.release();
  await lock.release();
  t.is(await readLockOwner(dir), null);
  await (await lockDirectory(dir, unexpected)).release();
  t.deepEqual(await readdir(dir), []);
});

test('the lock of a process that was killed is taken over', async (t) => {
  const dir = temporaryDir(t);
  const module = new URL('../../../src/coordinator/store/directory-lock.js', import.meta.url).href;
  const script = `const { lockDirectory } = await import(${JSON.stringify(module)});
    await lockDirectory(${JSON.stringify(dir)}, () => {}); console.log('locked'); process.stdin.resume();`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  await t.throwsAsync(lockDirectory(dir, unexpected), {
    message: new RegExp(`in use by process ${child.pid} `),
  });
  child.kill('SIGKILL');
  await once(child, 'exit');
  const notices: string[] = [];
  const lock = await lockDirectory(dir, (text) => notices.push(text));
  t.deepEqual(notices, [
    `${join(dir, 'lock')}: process ${child.pid} that held the lock has ended; taking it over`,
  ]);
  await lock.release();
});

test('of many that find a stale lock at once, one gets it', async (t) => {
  const dir = temporaryDir(t);
  const stale = { ...(await ownLock(dir)), startTicks: '1' };
  await writeFile(join(dir, 'lock'), JSON.stringify(stale));
  const attempts = await Promise.allSettled(Array.from({ length: 8 }, () => lockDirectory(dir, () => {})));
  t.is(attempts.filter(({ status }) => status === 'fulfilled').length, 1);
  t.deepEqual(await readdir(dir), ['lock']);
});

test('a lock that says nothing readable is taken over', async (t) => {
  const dir = temporaryDir(t);
  for (const text of ['', '{', 'null', '{"pid":"x"}']) {
    await writeFile(join(dir, 'lock'), text);
    await (await lockDirectory(dir, () => {})).release();
  }
  t.pass();
});

test('whether an owner lives is told by pid, start, boot, container and host', async (t) => {
  const self = await ownLock(temporaryDir(t));
  t.is(await livenessOf(self), 'alive');
  if (self.startTicks === null) {
    t.log('skipped the rest: this system has no /proc');
    return;
  }
  t.is(await livenessOf({ ...self, startTicks: '1' }), 'dead', 'the pid was used again');
  t.is(await livenessOf({ ...self, pid: 2 ** 30 }), 'dead', 'no such process');
  t.is(await livenessOf({ ...self, bootId: 'other' }), 'dead', 'this machine was started again');
  t.is(await livenessOf({ ...self, bootId: 'other', host: 'other' }), 'unknown', 'another machine');
  t.is(await livenessOf({ ...self, pidNamespace: 'other' }), 'dead', 'this container was started again');
  t.is(await livenessOf({ ...self, pidNamespace: 'other', host: 'other' }), 'unknown', 'another container');
});

test('a lock whose owner cannot be seen is refused with the way out', async (t) => {
  const dir = temporaryDir(t);
  const path = join(dir, 'lock');
  const owner = { pid: 1, startTicks: '5', bootId: 'other', pidNamespace: null, host: 'far-away' };
  await writeFile(path, JSON.stringify(owner));
  const message = `${dir} is locked by process 1 on far-away, which cannot be seen from here; if it has ended, delete ${path} and try again`;
  await t.throwsAsync(lockDirectory(dir, unexpected), { instanceOf: OperatingError, message });
});
