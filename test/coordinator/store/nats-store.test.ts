/** What only a store in NATS can have wrong with it, on real servers. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect, headers } from '@nats-io/transport-node';
import test, { type ExecutionContext } from 'ava';
import { CheckpointError, OperatingError } from '../../../src/errors.ts';
import { connectNats } from '../../../src/coordinator/store/nats/nats-connection.ts';
import { NatsStateStore, natsNames } from '../../../src/coordinator/store/nats/nats-store.ts';
import { headersOf } from '../../../src/coordinator/store/nats/record-messages.ts';
import { StoreFull, StoreUnavailable } from '../../../src/coordinator/store/state-store.ts';
import { storeClock } from '../../../src/coordinator/store/store-clock.ts';
import { all, RUN, stored } from '../../contract/state-store.ts';
import { needsNats, startNatsCluster, startNatsServer } from '../../helpers/nats-server.ts';
import { pairPaths, pemPath } from '../../helpers/tls.ts';
import { openCheckpoint } from '../../../src/coordinator/store/checkpoint.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { writeCheckpoint } from './checkpoints.ts';
import { makeRecord, makeRecords } from './records.ts';

const NOBODY = { token: '', user: '', password: '', credsPath: '' };
const ONCE = { attempts: 1, gapMs: 0 };
const HOLDER = { holderId: 'a', address: '' };

async function openStore(
  t: ExecutionContext,
  servers: readonly string[],
  { leaseMs = 60_000, replicas }: { leaseMs?: number; replicas?: number } = {},
): Promise<NatsStateStore> {
  const link = await connectNats({ servers }, NOBODY);
  const times = { leaseMs, giveUpMs: 600_000, cutOffMs: 600_000 };
  const store = new NatsStateStore(link, { runName: RUN.name, times, clock: storeClock, replicas });
  t.teardown(() => store.close());
  return store;
}

test('a server that is not there: how often it was tried, and what to do', async (t) => {
  const error = await t.throwsAsync(
    connectNats({ servers: ['nats://127.0.0.1:1'] }, NOBODY, { attempts: 2, gapMs: 1 }),
    { instanceOf: OperatingError },
  );
  t.regex(
    error.message,
    /cannot be reached at nats:\/\/127\.0\.0\.1:1 \(tried 2 times\).*refused.*state in run\.yaml/,
  );
});

test('a server that is too old: which version is needed', async (t) => {
  const server = createServer((socket) => {
    const info = {
      server_id: 'x',
      version: '2.8.4',
      go: '',
      host: '',
      port: 1,
      max_payload: 1024,
      proto: 1,
      headers: true,
    };
    socket.write(`INFO ${JSON.stringify(info)}\r\n`);
    socket.on('data', (bytes) => void (bytes.includes('PING') && socket.write('PONG\r\n')));
    socket.on('error', () => {});
  }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await once(server, 'listening');
  const url = `nats://127.0.0.1:${(server.address() as AddressInfo).port}`;
  await t.throwsAsync(connectNats({ servers: [url] }, NOBODY, ONCE), {
    instanceOf: OperatingError,
    message: /is too old: it is 2\.8\.4, 2\.9\.0 or newer is needed/,
  });
});

test('a server without JetStream', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t, { jetStream: false });
  await t.throwsAsync(connectNats({ servers: [url] }, NOBODY, ONCE), {
    instanceOf: OperatingError,
    message: /runs without JetStream; start it with -js/,
  });
});

test('wrong credentials: what was shown, but not the secret', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t, { more: 'authorization { user: "galore", password: "right" }' });
  const right = { ...NOBODY, user: 'galore', password: 'right' };
  const link = await connectNats({ servers: [url] }, right, ONCE);
  await link.connection.close();
  for (const [credentials, shown] of [
    [NOBODY, /without credentials/],
    [{ ...right, password: 'wrong-one' }, /as user galore/],
    [{ ...NOBODY, token: 'wrong-one' }, /with a token/],
  ] as const) {
    const error = await t.throwsAsync(connectNats({ servers: [url] }, credentials, ONCE), {
      instanceOf: OperatingError,
      message: /does not let us in .*GALORE_NATS_TOKEN/,
    });
    t.regex(error.message, shown);
    t.notRegex(error.message, /wrong-one/);
  }
});

test('TLS: with the authority it is let in, without it is told which field to set', async (t) => {
  if (!needsNats(t)) return;
  const { cert, key } = pairPaths('server');
  const ca = pemPath('ca');
  const { url } = await startNatsServer(t, { more: `tls { cert_file: "${cert}", key_file: "${key}" }` });
  const servers = [url.replace('nats:', 'tls:')];
  const link = await connectNats({ servers, ca }, NOBODY, ONCE);
  await link.connection.close();
  await t.throwsAsync(connectNats({ servers }, NOBODY, ONCE), { message: /not to be trusted.*state\.ca/ });
  const { url: plain } = await startNatsServer(t);
  await t.throwsAsync(connectNats({ servers: [plain.replace('nats:', 'tls:')] }, NOBODY, ONCE), {
    message: /tls:\/\/ is for servers with TLS/,
  });
});

test('a stream that belongs to another run is left alone', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const connection = await connect({ servers: url });
  t.teardown(() => connection.close());
  const { stream, journalSubject } = natsNames(RUN.name);
  const manager = await jetstreamManager(connection);
  await manager.streams.add({ name: stream, subjects: [journalSubject] });
  await jetstream(connection).publish(journalSubject, 'something else');
  const store = await openStore(t, [url]);
  const error = await t.throwsAsync(store.createRun(RUN, HOLDER), { instanceOf: CheckpointError });
  t.regex(error.message, /belongs to another run; give this run another name/);
  t.is((await manager.streams.info(stream)).state.messages, 1);
  // The same when the stream was exchanged under a run.
  await manager.streams.delete(stream);
  const lease = await store.createRun(RUN, HOLDER);
  await lease.release();
  await manager.streams.delete(stream);
  await manager.streams.add({ name: stream, subjects: [journalSubject] });
  await t.throwsAsync(store.acquire(HOLDER), {
    instanceOf: CheckpointError,
    message: /belongs to another run/,
  });
});

test('what a start leaves that was killed before the run was there is taken over, but no records are', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const { bucket } = natsNames(RUN.name);
  const forgetRun = async (): Promise<void> => {
    const connection = await connect({ servers: url });
    await (await new Kvm(connection).open(bucket)).delete('run');
    await connection.close();
  };
  const store = await openStore(t, [url]);
  const first = await store.createRun(RUN, HOLDER);
  await first.release();
  await forgetRun();
  t.is(await store.readRun(), null);
  const lease = await store.createRun({ ...RUN, runId: 'run-2' }, HOLDER);
  const record = makeRecord(1);
  await store.append(lease, record.frames, record.summary);
  await lease.release();
  await forgetRun();
  const other = await openStore(t, [url]);
  await t.throwsAsync(other.createRun({ ...RUN, runId: 'run-3' }, HOLDER), {
    message: /belongs to another run/,
  });
});

test('replicas that a lone server cannot have', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const store = await openStore(t, [url], { replicas: 3 });
  await t.throwsAsync(store.createRun(RUN, HOLDER), {
    message: /state\.replicas is 3, but NATS at .* has not as many servers/,
  });
});

test('a record that is larger than a message is split, and whole again', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const store = await openStore(t, [url]);
  const lease = await store.createRun(RUN, HOLDER);
  const record = makeRecord(1, { partBytes: Array.from({ length: 20 }, () => 300_000) });
  await store.append(lease, record.frames, record.summary);
  const [found] = await all(store.records(1));
  t.is(found?.frames.length, 21);
  t.true(found?.frames.every((frame, i) => Buffer.from(frame).equals(record.frames[i]!)));
  const { state } = await (await managerAt(t, url)).streams.info(natsNames(RUN.name).stream);
  t.is(state.messages, 2 + 6, `${state.messages} messages`);
});

test('what a leader that died has left of a record is skipped', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const store = await openStore(t, [url]);
  const lease = await store.createRun(RUN, HOLDER);
  const [first, second] = makeRecords(2);
  await store.append(lease, first!.frames, first!.summary);
  const half = makeRecord(2, { previousDigest: first!.summary.digest, partBytes: [7] });
  const facts = { type: 'part', epoch: lease.epoch, ...half.summary, part: 1, parts: 2 } as const;
  const all_ = headers();
  for (const [name, value] of headersOf(facts)) all_.set(name, value);
  const manager = await managerAt(t, url);
  await manager.jetstream().publish(natsNames(RUN.name).journalSubject, half.frames[0], { headers: all_ });
  // It has written behind the back of the first store, as a second process would.
  await lease.release();
  const other = await openStore(t, [url]);
  const next = await other.acquire({ holderId: 'b', address: '' });
  t.is(next.lastSequence, 1);
  await other.append(next, second!.frames, second!.summary);
  t.deepEqual(await all(other.records(1)), [stored(first!), stored(second!)]);
  t.deepEqual(await all(other.records(2)), [stored(second!)]);
});

test('a record whose acknowledgement does not come is looked for, and is there once', async (t) => {
  if (!needsNats(t)) return;
  t.timeout(60_000);
  const server = await startNatsServer(t);
  const store = await openStore(t, [server.url]);
  const lease = await store.createRun(RUN, HOLDER);
  const [first, second] = makeRecords(2);
  await server.pause();
  // It stays in the buffers of the kernel, and is stored as soon as the server goes on.
  await t.throwsAsync(store.append(lease, first!.frames, first!.summary), { instanceOf: StoreUnavailable });
  server.goOn();
  await appendAtLast(() => store.append(lease, first!.frames, first!.summary));
  await store.append(lease, second!.frames, second!.summary);
  t.deepEqual(await all(store.records(1)), [stored(first!), stored(second!)]);
  const { state } = await (await managerAt(t, server.url)).streams.info(natsNames(RUN.name).stream);
  t.is(state.messages, 4, 'the beginning of the run, of the epoch, and two records');
});

test('a server that is killed and started again: the same record can be appended, the lease is kept', async (t) => {
  if (!needsNats(t)) return;
  t.timeout(60_000);
  const server = await startNatsServer(t);
  const store = await openStore(t, [server.url], { leaseMs: 1000 });
  const lease = await store.createRun(RUN, HOLDER);
  const [first, second] = makeRecords(2);
  await store.append(lease, first!.frames, first!.summary);
  await server.kill();
  await t.throwsAsync(store.append(lease, second!.frames, second!.summary), { instanceOf: StoreUnavailable });
  t.false(lease.isCurrent);
  await server.start();
  await appendAtLast(() => store.append(lease, second!.frames, second!.summary));
  t.true(lease.isCurrent);
  t.false(lease.lost.aborted);
  t.deepEqual(await all(store.records(1)), [stored(first!), stored(second!)]);
});

test('JetStream without room says so, and takes the same record when there is some', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t, {
    more: 'jetstream { store_dir: "STORE_DIR", max_file_store: 4194304 }',
  });
  const store = await openStore(t, [url]);
  const lease = await store.createRun(RUN, HOLDER);
  const records = makeRecords(8, { partBytes: [800_000] });
  let committed = 0;
  const failing = await t.throwsAsync(
    async () => {
      for (const { frames, summary } of records) {
        await store.append(lease, frames, summary);
        committed += 1;
      }
    },
    { instanceOf: StoreFull },
  );
  t.regex(failing.message, /JetStream at .* is full .*max_file_store/);
  t.true(committed >= 3, String(committed));
  const { frames, summary } = records[committed]!;
  await t.throwsAsync(store.append(lease, frames, summary), { instanceOf: StoreFull });
  await store.removeRecordsBefore(lease, 3);
  await store.append(lease, frames, summary);
  t.deepEqual((await all(store.records(3))).map(({ sequence }) => sequence).at(-1), committed + 1);
});

test('a checkpoint of many messages comes out as it went in, and one that lacks some is damaged', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t);
  const store = await openStore(t, [url]);
  const lease = await store.createRun(RUN, HOLDER);
  const [from, to] = [join(temporaryDir(t), 'checkpoints'), join(temporaryDir(t), 'checkpoints')];
  const large = randomBytes(9 * 1024 * 1024 + 5);
  await writeCheckpoint(from, 1, { large, empty: Buffer.alloc(0) });
  await store.checkpoints.put(lease, from, 1);
  const other = await openStore(t, [url]);
  await other.checkpoints.get(to, 1);
  await (await openCheckpoint(to, 1)).close();
  t.true(large.equals(readFileSync(join(to, 'step-000001', 'large'))));
  const manager = await managerAt(t, url);
  const { checkpointStream } = natsNames(RUN.name);
  const { state } = await manager.streams.info(checkpointStream);
  await manager.streams.deleteMessage(checkpointStream, Math.round(state.last_seq / 2));
  await t.throwsAsync(other.checkpoints.get(join(to, 'again'), 1), {
    instanceOf: CheckpointError,
    message: /has 18 of the 19 messages of .*: the checkpoint was deleted, or is damaged/,
  });
});

test('of a checkpoint for which there is no room nothing is left, and the one before it stays', async (t) => {
  if (!needsNats(t)) return;
  const { url } = await startNatsServer(t, {
    more: 'jetstream { store_dir: "STORE_DIR", max_file_store: 8388608 }',
  });
  const store = await openStore(t, [url]);
  const lease = await store.createRun(RUN, HOLDER);
  const [from, to] = [join(temporaryDir(t), 'checkpoints'), join(temporaryDir(t), 'checkpoints')];
  const manager = await managerAt(t, url);
  const messages = async (): Promise<number> =>
    (await manager.streams.info(natsNames(RUN.name).checkpointStream)).state.messages;
  await writeCheckpoint(from, 1);
  await store.checkpoints.put(lease, from, 1);
  const before = await messages();
  // Also one of the same step, as after a put whose end was not acknowledged.
  for (const step of [2, 1]) {
    await writeCheckpoint(from, step, { large: randomBytes(12 * 1024 * 1024) });
    await t.throwsAsync(store.checkpoints.put(lease, from, step), { instanceOf: StoreFull });
    t.is(await messages(), before);
  }
  t.deepEqual((await store.checkpoints.list()).map(({ step }) => step), [1]); // prettier-ignore
  await store.checkpoints.get(to, 1);
  await (await openCheckpoint(to, 1)).close();
});

test('a cluster of three keeps three copies, and a node that is killed costs nothing', async (t) => {
  if (!needsNats(t)) return;
  t.timeout(120_000);
  const servers = await startNatsCluster(t, 3);
  const urls = servers.map(({ url }) => url);
  const store = await openStore(t, urls);
  const lease = await appendAtLast(() => store.createRun(RUN, HOLDER));
  const manager = await managerAt(t, ...urls);
  const { config, cluster } = await manager.streams.info(natsNames(RUN.name).stream);
  t.is(config.num_replicas, 3);
  const records = makeRecords(6);
  const append = (i: number): Promise<void> => store.append(lease, records[i]!.frames, records[i]!.summary);
  for (const i of [0, 1, 2]) await append(i);
  const index = Number(/\d/.exec(cluster!.leader!)![0]);
  await servers[index]!.kill();
  for (const i of [3, 4, 5]) await appendAtLast(() => append(i));
  t.deepEqual(await all(store.records(1)), records.map(stored));
});

/** Tries again while the store is not to be reached. */
async function appendAtLast<T>(append: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await append();
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
      await storeClock.sleep(100);
    }
  }
}

async function managerAt(t: ExecutionContext, ...servers: readonly string[]) {
  const connection = await connect({ servers: [...servers] });
  t.teardown(() => connection.close());
  return await jetstreamManager(connection);
}
