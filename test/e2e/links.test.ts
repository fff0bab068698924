/** Links that break, and two processes with one id, in real runs. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { coverRun } from '../../src/coordinator/store/inspect-coverage.ts';
import { Galore, galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 5 };

/** A coordinator of a run for two trainers, who need a token. */
async function serve(t: ExecutionContext, steps: number) {
  const coordinator = { port: 0, start_trainers: 2 };
  const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, method, steps, coordinator }));
  const tokens = join(run.dir, 'tokens.json');
  const created = await galore(t, 'token', 'create', tokens, '--role', 'trainer', '--json');
  const { token } = JSON.parse(created.output) as { token: string };
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  const trainer = (id: string, at: string = url) =>
    new Galore(t, ['trainer', at, '--id', id, '--threads', '1', '--token', token]);
  return { run, command, url, trainer };
}

/** A way to `url` that can be cut. */
async function detour(t: ExecutionContext, url: string) {
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(Number(new URL(url).port), '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(one);
          other.destroy();
        });
      one.pipe(other);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cut = (): void => sockets.forEach((socket) => void socket.resetAndDestroy());
  t.teardown(() => {
    cut();
    server.close();
  });
  return { url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`, cut };
}

async function everySequenceIsUsedOnce(t: ExecutionContext, run: TestRun): Promise<void> {
  t.like(await coverRun(run.dir), { duplicates: 0, missing: 0, isExact: true });
}

test.serial(
  'a link that breaks again and again: the trainer catches up by records, with the id and token it had',
  async (t) => {
    const { run, command, url, trainer } = await serve(t, 100);
    const way = await detour(t, url);
    const [a, b] = [trainer('a'), trainer('b', way.url)];
    for (const step of [8, 50]) {
      await command.printed(new RegExp(`step ${step}/100`));
      way.cut();
    }
    t.is(await command.exited, 0, command.output);
    t.is(await a.exited, 0, a.output);
    t.is(await b.exited, 0, b.output);
    t.is(b.output.match(/receiving a snapshot/g)?.length, 1, b.output);
    const comebacks = [...b.output.matchAll(/joined run \S+ with the state of record (\d+)/g)].map(([, at]) =>
      Number(at),
    );
    t.is(comebacks.length, 2, b.output);
    t.deepEqual(
      comebacks,
      comebacks.toSorted((x, y) => x - y),
    );
    // Steps went on meanwhile, and it took part in others after each comeback.
    const delivered = run.metrics.map(({ members }) => members.delivered.join(''));
    t.true(delivered.includes('a') && delivered.lastIndexOf('ab') > delivered.lastIndexOf('a'));
    await everySequenceIsUsedOnce(t, run);
    const { weightsSha256 } = await run.inspect();
    t.regex(b.output, new RegExp(`SHA-256 ${weightsSha256}`));
  },
);

test.serial('of two processes with one id the newer wins, and the older ends with the reason', async (t) => {
  const { run, command, trainer } = await serve(t, 60);
  const [a, older] = [trainer('a'), trainer('b')];
  await command.printed(/step 10\/60/);
  const newer = trainer('b');
  t.is(await older.exited, 3, older.output);
  t.regex(older.output, /a newer connection uses the same trainer id/);
  t.is(await command.exited, 0, command.output);
  t.is(await a.exited, 0, a.output);
  t.is(await newer.exited, 0, newer.output);
  t.deepEqual(run.metrics.at(-1)!.members.delivered, ['a', 'b']);
  t.true(run.metrics.every(({ trainers }) => trainers <= 2));
  await everySequenceIsUsedOnce(t, run);
});
