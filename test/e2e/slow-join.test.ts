/** Joining over a link that breaks in the middle of the state. */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

/** A way to a port on which the first connection breaks after so many bytes from there. */
async function brittleLink(t: ExecutionContext, port: number, bytes: number): Promise<string> {
  const sockets: Socket[] = [];
  const server = createServer((near) => {
    const far = connect({ port, host: '127.0.0.1' });
    const isFirst = sockets.length === 0;
    sockets.push(near, far);
    let left = bytes;
    for (const socket of [near, far]) socket.on('error', () => {});
    near.pipe(far);
    far.on('data', (chunk: Buffer) => {
      near.write(chunk);
      left -= chunk.length;
      if (isFirst && left < 0) for (const socket of [near, far]) socket.destroy();
    });
    near.on('close', () => far.destroy());
    far.on('close', () => near.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

test('a trainer whose link breaks while it joins does not begin anew', async (t) => {
  const model = { hidden_size: 128, intermediate_size: 256, num_hidden_layers: 4, num_attention_heads: 2 };
  // The run begins when both are there.
  const config = { model, steps: 5, coordinator: { port: 0, start_trainers: 2 } };
  const run = new TestRun(t, tinyConfig(TEST_TEXT, config));
  const coordinator = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await coordinator.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  const first = new Galore(t, ['trainer', url, '--id', 'a', '--threads', '1']);
  const link = await brittleLink(t, Number(new URL(url).port), 2_000_000);
  const second = new Galore(t, ['trainer', link, '--id', 'b', '--threads', '1']);
  const [, had, all] = await second.printed(/goes on with the snapshot behind tensor (\d+) of (\d+)/);
  t.true(Number(had) >= 2 && Number(had) < Number(all), `${had} of ${all}`);
  t.is(await coordinator.exited, 0, coordinator.output);
  t.is(await first.exited, 0, first.output);
  t.is(await second.exited, 0, second.output);
  const { weightsSha256 } = await run.inspect();
  t.regex(second.output, new RegExp(`after step 5 have SHA-256 ${weightsSha256}`));
  t.is(run.metrics.at(-1)!.trainers, 2);
});
