/**
 * A place where trainers are connected, the coordinator or a gateway: one link each way that all of them share, one
 * thread that takes in and gives out, and what passed through.
 */
import type { Clock } from '../clock.ts';
import { createFluidLink, type Flow, type FluidLink } from './fluid-link.ts';

/** Processor time, in seconds. */
export interface Costs {
  readonly perByteReceived: number;
  readonly perByteSent: number;
  readonly perByteOfRecord: number;
  readonly perPartReceived: number;
  readonly perPartSent: number;
}

/** Links are as fast as their cables are: of 1514 bytes of Ethernet, IP and TCP 1448 are ours. */
const PAYLOAD_SHARE = 1448 / 1514;

/** @returns bytes a second that a program can send */
export function payloadRate(bitsPerSecond: number): number {
  return (bitsPerSecond / 8) * PAYLOAD_SHARE;
}

/** What passed through, so far. */
export interface HubUse {
  readonly receivedBytes: number;
  readonly sentBytes: number;
  readonly cpuSeconds: number;
  /** In which the link was full. */
  readonly fullInSeconds: number;
  readonly fullOutSeconds: number;
}

export class Hub {
  readonly #clock: Clock;
  readonly #costs: Costs;
  readonly #in: FluidLink;
  readonly #out: FluidLink;
  /** Work of the thread that is not done yet, at `#lastMs`. */
  #backlogMs = 0;
  #lastMs = 0;
  #cpuSeconds = 0;
  #receivedBytes = 0;
  #sentBytes = 0;

  /** @param rates bits a second of the place's own link */
  constructor(clock: Clock, rates: { readonly up: number; readonly down: number }, costs: Costs) {
    this.#clock = clock;
    this.#costs = costs;
    this.#in = createFluidLink(clock, payloadRate(rates.down));
    this.#out = createFluidLink(clock, payloadRate(rates.up));
  }

  /** A trainer's connection. @param ends bits a second of its own link, and what leaves at once after a rest */
  connect(
    ends: { readonly up: number; readonly down: number; readonly burstBytes?: number },
    latencyMs: number,
  ): Wire {
    const flows = [
      this.#in.flow(payloadRate(ends.up), ends.burstBytes),
      this.#out.flow(payloadRate(ends.down), ends.burstBytes),
    ] as const;
    return new Wire(this.#clock, this, flows, latencyMs);
  }

  /** Bytes of a record are summed, encoded and digested; milliseconds until that is done. */
  make(bytes: number): number {
    return this.#work(bytes * this.#costs.perByteOfRecord);
  }

  /** Milliseconds until they are taken in. */
  take(bytes: number, parts: number): number {
    this.#receivedBytes += bytes;
    return this.#work(bytes * this.#costs.perByteReceived + parts * this.#costs.perPartReceived);
  }

  /** Milliseconds until they are given to the socket. */
  give(bytes: number, parts: number): number {
    this.#sentBytes += bytes;
    return this.#work(bytes * this.#costs.perByteSent + parts * this.#costs.perPartSent);
  }

  use(): HubUse {
    return {
      receivedBytes: this.#receivedBytes,
      sentBytes: this.#sentBytes,
      cpuSeconds: this.#cpuSeconds,
      fullInSeconds: this.#in.fullSeconds(),
      fullOutSeconds: this.#out.fullSeconds(),
    };
  }

  #work(seconds: number): number {
    const nowMs = this.#clock.nowMs();
    this.#cpuSeconds += seconds;
    this.#backlogMs = Math.max(0, this.#backlogMs - (nowMs - this.#lastMs)) + 1000 * seconds;
    this.#lastMs = nowMs;
    return this.#backlogMs;
  }
}

/** A trainer's connection to a hub. What is sent either way arrives once and in order. */
export class Wire {
  readonly latencyMs: number;
  readonly #clock: Clock;
  readonly #hub: Hub;
  readonly #up: Flow;
  readonly #down: Flow;
  #isCut = false;

  constructor(clock: Clock, hub: Hub, [up, down]: readonly [Flow, Flow], latencyMs: number) {
    this.#clock = clock;
    this.#hub = hub;
    this.#up = up;
    this.#down = down;
    this.latencyMs = latencyMs;
  }

  /** To the hub. `takenIn` is called as soon as it is known when the hub has taken it in. */
  send(bytes: number, parts: number, takenIn: (atMs: number) => void): void {
    this.#up.send(bytes, () => {
      const busyMs = this.#hub.take(bytes, parts);
      takenIn(this.#clock.nowMs() + this.latencyMs + busyMs);
    });
  }

  /** From the hub. */
  deliver(bytes: number, parts: number, arrived?: () => void): void {
    if (this.#isCut) return;
    const sentMs = this.#clock.nowMs() + this.#hub.give(bytes, parts);
    if (arrived === undefined) return this.#down.send(bytes);
    this.#down.send(bytes, () => {
      const nowMs = this.#clock.nowMs();
      this.after(Math.max(0, sentMs - nowMs) + this.latencyMs, arrived);
    });
  }

  /** Runs it later, unless the connection is gone by then. */
  after(delayMs: number, action: () => void): void {
    this.#clock.schedule(delayMs, () => {
      if (!this.#isCut) action();
    });
  }

  cut(): void {
    this.#isCut = true;
    this.#up.cancel();
    this.#down.cancel();
  }
}
