/**
 * A CoordinatorServer in a thread of its own, so that a test may block its main thread. It brings
 * every trainer a snapshot and reports what it hears.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import type { ExecutionContext } from 'ava';
import { CoordinatorServer } from '../../src/coordinator/server.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { Mailbox } from './mailbox.ts';
import { snapshotFrames, WELCOME } from './wire.ts';

export interface Heartbeats {
  readonly heartbeatIntervalMs: number;
  readonly heartbeatTimeoutMs: number;
}

export type ServerReport =
  | { readonly type: 'listening'; readonly url: string }
  | { readonly type: 'heard'; readonly connection: number; readonly kind: string }
  | { readonly type: 'closed'; readonly connection: number; readonly code: number; readonly reason: string };

/** Starts the thread; it is ended by `t.teardown`. */
export async function startServerThread(
  t: ExecutionContext,
  heartbeats: Heartbeats,
): Promise<{ url: string; reports: Mailbox<ServerReport> }> {
  const worker = new Worker(new URL(import.meta.url), { workerData: heartbeats });
  t.teardown(() => worker.terminate());
  const reports = new Mailbox<ServerReport>();
  worker.on('message', (report: ServerReport) => reports.put(report));
  const first = await reports.takeWhere((report) => report.type === 'listening');
  return { url: first.url, reports };
}

async function run(heartbeats: Heartbeats): Promise<void> {
  const report = (message: ServerReport): void => parentPort?.postMessage(message);
  const server = await CoordinatorServer.listen(
    { host: '127.0.0.1', port: 0, handshakeTimeoutMs: 5_000, logger: SILENT_LOGGER, ...heartbeats },
    {
      onMessage(connection, message) {
        report({ type: 'heard', connection: connection.id, kind: message.kind });
        if (message.kind !== 'hello') return;
        server.admit(connection, message.trainerId);
        const [welcome, ...rest] = snapshotFrames();
        connection.send({ ...WELCOME, ...welcome, ...heartbeats } as typeof WELCOME);
        for (const frame of rest) connection.send(frame);
      },
      onClose: (connection, code, reason) =>
        report({ type: 'closed', connection: connection.id, code, reason }),
      onFatal(error) {
        throw error;
      },
    },
  );
  report({ type: 'listening', url: server.url });
}

if (!isMainThread && workerData !== null && 'heartbeatIntervalMs' in workerData)
  await run(workerData as Heartbeats);
