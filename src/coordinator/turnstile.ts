/**
 * Who may come in, counted by address: open sockets, and handshakes in a second (a token bucket that holds those of
 * one second). Loopback counts like any other address. Pure but for what it remembers, which is bounded.
 */

import { RateLimiter } from '../rate-limiter.ts';

/** Of one address, in the units of `coordinator.limits`. */
export interface TurnstileLimits {
  readonly maxConnectionsPerAddress: number;
  readonly maxHandshakesPerSecond: number;
}

/** Sockets of an address beyond its WebSockets: long enough to be told why there are too many. */
const SPARE_SOCKETS = 8;
export class Turnstile {
  readonly #limits: TurnstileLimits;
  readonly #sockets = new Map<string, number>();
  readonly #handshakes: RateLimiter;

  /** @param now monotonic milliseconds */
  constructor(limits: TurnstileLimits, now: () => number) {
    this.#limits = limits;
    const { maxHandshakesPerSecond: rate } = limits;
    this.#handshakes = new RateLimiter({ burst: rate, perSecond: rate }, now);
  }

  /** Addresses of which something is remembered, sockets and handshakes each for themselves. */
  get addresses(): number {
    return this.#sockets.size + this.#handshakes.keys;
  }

  /** A socket was opened; false: the address has so many that it is to be closed at once. */
  arrive(address: string): boolean {
    const key = networkOf(address);
    const sockets = (this.#sockets.get(key) ?? 0) + 1;
    if (sockets > this.#limits.maxConnectionsPerAddress + SPARE_SOCKETS) return false;
    this.#sockets.set(key, sockets);
    return true;
  }

  /** A socket that `arrive` let in was closed. */
  depart(address: string): void {
    const key = networkOf(address);
    const sockets = (this.#sockets.get(key) ?? 0) - 1;
    if (sockets > 0) this.#sockets.set(key, sockets);
    else this.#sockets.delete(key);
  }

  /** Why the address may not open another WebSocket on a socket that has arrived; null: it may. */
  crowdOf(address: string): string | null {
    const { maxConnectionsPerAddress: most } = this.#limits;
    const sockets = this.#sockets.get(networkOf(address)) ?? 0;
    if (sockets <= most) return null;
    return `connections from one address: ${sockets}, allowed: ${most} (coordinator.limits.connections_per_address)`;
  }

  /** Counts a handshake; why it may not go on, or null. */
  knock(address: string): string | null {
    const { maxHandshakesPerSecond: rate } = this.#limits;
    if (this.#handshakes.take(networkOf(address))) return null;
    return `handshakes from one address in a second: more than ${rate}, allowed: ${rate} (coordinator.limits.handshakes_per_second)`;
  }
}

/**
 * What counts as one address: of IPv6 the network of 64 bits, of which one household has all addresses; an IPv4
 * address in IPv6 clothes is the IPv4 address.
 */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped !== null) return mapped[1]!;
  if (!address.includes(':')) return address;
  const [head = '', tail] = (address.split('%')[0] ?? '').split('::');
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const missing = tail === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const groups = [...before, ...Array<string>(missing).fill('0'), ...after];
  return `${groups
    .slice(0, 4)
    .map((group) => group.toLowerCase().replace(/^0+(?=.)/, ''))
    .join(':')}::/64`;
}
