import { join } from 'node:path';
import test from 'ava';
import { FileStateStore } from '../../src/coordinator/store/file-store.ts';
import { MemoryStateStore, SharedMemory } from '../../src/coordinator/store/memory-store.ts';
import { connectNats } from '../../src/coordinator/store/nats/nats-connection.ts';
import { NatsStateStore } from '../../src/coordinator/store/nats/nats-store.ts';
import { storeClock } from '../../src/coordinator/store/store-clock.ts';
import { needsNats, startNatsServer } from '../helpers/nats-server.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { LEASE_MS, RUN, testStateStoreContract } from './state-store.ts';

const times = { leaseMs: LEASE_MS, giveUpMs: 60_000, cutOffMs: 60_000 };
const NOBODY = { token: '', user: '', password: '', credsPath: '' };

testStateStoreContract(test, {
  name: 'memory',
  canExpire: true,
  prepare: (t) => {
    const shared = new SharedMemory();
    return Promise.resolve((clock = storeClock) => {
      const store = new MemoryStateStore(shared, times, clock);
      t.teardown(() => store.close());
      return Promise.resolve(store);
    });
  },
});

testStateStoreContract(test, {
  name: 'files',
  canExpire: false,
  prepare: (t) => {
    const dir = join(temporaryDir(t), 'run');
    return Promise.resolve((clock = storeClock) => {
      const store = new FileStateStore(dir, clock);
      t.teardown(() => store.close());
      return Promise.resolve(store);
    });
  },
});

testStateStoreContract(test, {
  name: 'NATS',
  canExpire: true,
  prepare: async (t) => {
    if (!needsNats(t)) return null;
    // Small messages: a record needs several.
    const { url } = await startNatsServer(t, { more: 'max_payload: 20000' });
    return async (clock = storeClock) => {
      const link = await connectNats({ servers: [url] }, NOBODY);
      const store = new NatsStateStore(link, { runName: RUN.name, times, clock });
      t.teardown(() => store.close());
      return store;
    };
  },
});
