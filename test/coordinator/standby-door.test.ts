import test from 'ava';
import { parseRunConfig } from '../../src/config/load.ts';
import { StandbyDoor } from '../../src/coordinator/standby-door.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { parseExposition } from '../support/exposition.ts';
import { expectMessage, openLink, startServer, WELCOME } from '../support/wire.ts';

const { coordinator } = parseRunConfig('name: x\nsteps: 1\nmodel: 9m\ndata: {path: a.txt}\n', 'test', {
  workingDir: '/',
  homeDir: '/',
  overrides: [],
});

async function standby(t: Parameters<typeof startServer>[0], leaderUrl: () => string | null) {
  const options = { coordinator: { ...coordinator, host: '127.0.0.1', port: 0 }, tls: null, leaderUrl };
  const door = await StandbyDoor.open({ ...options, logger: SILENT_LOGGER });
  t.teardown(() => door.close());
  return door;
}

test('a trainer that comes to a standby first finds the leader, which it names, at once', async (t) => {
  const { url, messages } = await startServer(t);
  const doors = [await standby(t, () => url), await standby(t, () => url)];
  const { nextOf } = openLink(t, [...doors.map((door) => door.url), url].join(','));
  const { connection, message } = await expectMessage(messages, 'hello');
  t.is(message.kind, 'hello');
  connection.send(WELCOME);
  t.truthy(await nextOf('connected'));
});

test('a standby answers 503 with the leader in a header, and is well but not ready', async (t) => {
  let leader: string | null = 'ws://10.0.0.7:29400/';
  const door = await standby(t, () => leader);
  const http = door.url.replace('ws:', 'http:');
  const health = await fetch(`${http}healthz`);
  t.is(health.status, 200);
  const ready = await fetch(`${http}readyz`);
  t.is(ready.status, 503);
  t.is(ready.headers.get('galore-leader'), leader);
  t.is(await ready.text(), 'a standby; ws://10.0.0.7:29400/ leads the run\n');
  leader = null;
  t.is((await fetch(`${http}readyz`)).headers.get('galore-leader'), 'none');
  t.is((await fetch(`${http}x`)).status, 404);
});

test('whoever looks for the page of a run at a standby is told where it is, and Prometheus that it does not lead', async (t) => {
  let leader: string | null = 'wss://10.0.0.7:29400/';
  const door = await standby(t, () => leader);
  const http = door.url.replace('ws:', 'http:');
  const page = await fetch(`${http}?from=bookmark`);
  t.is(page.status, 503);
  t.is(
    await page.text(),
    'a standby; wss://10.0.0.7:29400/ leads the run; its page: https://10.0.0.7:29400/\n',
  );
  // As a page does that was opened while this one led.
  const head = await fetch(http, { method: 'HEAD' });
  t.is(head.headers.get('galore-leader'), leader);
  const families = parseExposition(await (await fetch(`${http}metrics`)).text());
  t.deepEqual(families.get('galore_leading')?.samples.map(({ value }) => value), [0]); // prettier-ignore
  leader = null;
  t.is(await (await fetch(http)).text(), 'a standby; nobody leads the run\n');
});

test('a trainer with a path that no coordinator has says so and ends', async (t) => {
  const { url } = await startServer(t);
  const { nextOf } = openLink(t, `${url}train`);
  const { reason, text } = await nextOf('closed');
  t.is(reason, 'NO_COORDINATOR');
  t.regex(text, /there is no coordinator at ws:\/\/127\.0\.0\.1:\d+\/train \(404\)/);
});
