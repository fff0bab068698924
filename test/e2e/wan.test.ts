/** `galore bench wan` with real namespaces where the machine can make them; where not, it must say why. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';

const run = promisify(execFile);
const GALORE = fileURLToPath(new URL('../../../bin/galore.js', import.meta.url));
const SMALL = ['--model', '9m', '--vocab', '300', '--batch', '1', '--seq', '16', '--threads', '1'];

const BUCKET = ['rate', '1mbit', 'burst', '256kb', 'latency', '400ms'];

/** Why namespaces cannot be made and shaped here; null: they can. */
function obstacle(): string | null {
  const name = `galore-test-${process.pid}`;
  const shape = ['tc', '-n', name, 'qdisc', 'add', 'dev', 'lo', 'root', 'tbf', ...BUCKET];
  const said = [['ip', 'netns', 'add', name], shape, ['ip', 'netns', 'del', name]].map(([file, ...args]) => {
    const { error, status, stderr } = spawnSync(file!, args, { encoding: 'utf8' });
    return status === 0 ? null : (error?.message ?? stderr.trim());
  });
  return said.find((words) => words !== null) ?? null;
}

/** A temporary folder for the processes, whose leftovers can be seen. */
function temporary(t: ExecutionContext): { readonly dir: string; readonly env: NodeJS.ProcessEnv } {
  const dir = mkdtempSync(join(tmpdir(), 'galore-wan-test-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return { dir, env: { ...process.env, TMPDIR: dir } };
}

async function namespacesOf(processId: number): Promise<string[]> {
  const { stdout } = await run('ip', ['netns', 'list']);
  return stdout.split('\n').filter((line) => line.startsWith(`galore-wan-${processId}-`));
}

test('bench wan without ip and tc says what is missing and what to install', async (t) => {
  const { dir, env } = temporary(t);
  const failure = await t.throwsAsync(
    run(process.execPath, [GALORE, 'bench', 'wan', ...SMALL], { env: { ...env, PATH: dir } }),
  );
  t.like(failure, { code: 3 });
  const { stderr } = failure as unknown as { stderr: string };
  t.regex(stderr, /^error: shaped links need Linux, root and the programs ip and tc; .*\n$/);
  if (process.platform === 'linux') t.regex(stderr, /ip and tc are not in PATH: install iproute2/);
});

const why = obstacle();
// The title of a test that is skipped says why.
const [measured, title] =
  why === null
    ? [test.serial, 'a run over slow links is measured, is slow, and leaves nothing behind']
    : [
        test.serial.skip,
        `a run over slow links is not measured: namespaces cannot be made and shaped here: ${why}`,
      ];

measured(title, async (t) => {
  const { dir, env } = temporary(t);
  const links = ['--up', '2mbit', '--down', '20mbit'];
  const args = [
    GALORE,
    'bench',
    'wan',
    ...SMALL,
    ...links,
    '--steps',
    '2',
    '--set',
    'wire.codec=f32',
    '--json',
  ];
  const running = run(process.execPath, args, { env });
  const { stdout } = await running;
  const result = JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, number>;
  const { bytesUpPerStep: up, bytesDownPerStep: down, secondsPerStep: seconds } = result;
  // Power sends the same up and down: an update is the sum of contributions.
  t.true(up! > 150_000 && Math.abs(up! / down! - 1) < 0.02, `${up} up, ${down} down`);
  t.true(Math.abs(up! / result['plannedBytesUpPerStep']! - 1) < 0.03);
  // Of two steps the bucket may let 256 kB through at once; the rest goes at 2 Mbit/s.
  const atLeast = ((2 * up! - 256 * 1024) * 8) / 2e6 / 2;
  t.true(seconds! > atLeast && atLeast > 0.1, `${seconds} s a step, which must take ${atLeast} s`);
  t.true(Math.abs(result['tokensPerSecond']! * seconds! - 2 * 16) < 1e-9);
  t.deepEqual(readdirSync(dir), []);
  t.deepEqual(await namespacesOf(running.child.pid!), []);
});

const interruptible = why === null ? test.serial : test.serial.skip;

interruptible('Ctrl-C in the middle leaves no namespace, no process and no file', async (t) => {
  const { dir, env } = temporary(t);
  const args = [GALORE, 'bench', 'wan', ...SMALL, '--steps', '1000'];
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk) => (said += String(chunk)));
  const hasRun = (): boolean => existsSync(join(dir, readdirSync(dir)[0] ?? '', 'run', 'metrics.jsonl'));
  while (!hasRun() && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 50));
  const [hub] = await namespacesOf(child.pid!);
  const { stdout: inside } = await run('ip', ['netns', 'pids', hub!.split(' ')[0]!]);
  t.regex(inside, /^\d+\n$/);
  child.kill('SIGINT');
  const [code] = (await once(child, 'close')) as [number];
  t.is(code, 130, said);
  t.is(said, 'interrupted; processes, namespaces and files of the measurement are removed\n');
  t.deepEqual(await namespacesOf(child.pid!), []);
  t.deepEqual(readdirSync(dir), []);
  t.throws(() => process.kill(Number(inside), 0), { code: 'ESRCH' });
});
