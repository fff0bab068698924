import test from 'ava';
import { startServerThread, type Heartbeats } from '../support/server-thread.ts';
import { openLink, SIZES } from '../support/wire.ts';

const CASES: readonly (Heartbeats & { readonly blockMs: number })[] = [
  { heartbeatIntervalMs: 100, heartbeatTimeoutMs: 400, blockMs: 2_000 },
  { heartbeatIntervalMs: 1_000, heartbeatTimeoutMs: 4_000, blockMs: 12_000 },
];

for (const { blockMs, ...heartbeats } of CASES) {
  test.serial(
    `a trainer whose main thread is blocked for ${blockMs / 1000} s keeps a connection with a timeout of ${heartbeats.heartbeatTimeoutMs / 1000} s`,
    async (t) => {
      t.timeout(60_000);
      const { url, reports } = await startServerThread(t, heartbeats);
      const { link, nextOf } = openLink(t, url);
      await nextOf('connected');
      link.accept(SIZES);
      await nextOf('snapshotEnd');
      link.applied(0);
      await reports.takeWhere((report) => report.type === 'heard' && report.kind === 'ready');
      // Half of the time asleep, half of it computing, as a tensor operation would.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, blockMs / 2);
      const endMs = performance.now() + blockMs / 2;
      while (performance.now() < endMs) Math.sqrt(endMs);
      link.send({ kind: 'contribution', step: 1, tokens: 0, lossSum: 0 });
      const heard: string[] = [];
      for (;;) {
        const report = await reports.take();
        if (report.type !== 'heard' || report.connection !== 1) return t.fail(JSON.stringify(report));
        if (report.kind === 'contribution') break;
        heard.push(report.kind);
      }
      const beats = heard.filter((kind) => kind === 'heartbeat').length;
      t.true(beats >= 0.5 * (blockMs / heartbeats.heartbeatIntervalMs), `${beats} heartbeats`);
    },
  );
}
