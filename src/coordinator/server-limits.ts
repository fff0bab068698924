/** What the settings of coordinator.* mean to its server. Pure. */
import type { RunConfig } from '../config/schema.ts';
import type { ServerOptions } from './server.ts';

const MIB = 1024 * 1024;

/** The settings that are about connections as such. */
export type ServerSettings = Pick<
  RunConfig['coordinator'],
  'limits' | 'handshake_timeout_ms' | 'heartbeat_interval_ms' | 'heartbeat_timeout_ms'
>;

export function serverLimits({ limits, ...timers }: ServerSettings) {
  return {
    handshakeTimeoutMs: timers.handshake_timeout_ms,
    heartbeatIntervalMs: timers.heartbeat_interval_ms,
    heartbeatTimeoutMs: timers.heartbeat_timeout_ms,
    maxConnections: limits.connections,
    maxConnectionsPerAddress: limits.connections_per_address,
    maxHandshakesPerSecond: limits.handshakes_per_second,
    maxMessagesPerSecond: limits.messages_per_second,
    maxUnsentBytes: limits.unsent_memory * MIB,
  } satisfies Partial<ServerOptions>;
}
