/**
 * A network in memory: hosts, connections between them, and everything that can go wrong with these.
 * Time is virtual, chance comes from a seed. A connection is a stream like TCP: frames arrive once and
 * in order, unless a fault says otherwise.
 */
import type { Clock } from './clock.ts';
import { createDice } from './dice.ts';

/** One end of a connection. */
export interface Socket<Out> {
  send(frame: Out): void;
  /** The other end is told, after what was sent before; this end hears nothing more. */
  close(code: number, text: string): void;
}

/** What an end hears. */
export interface SocketHandlers<In> {
  opened?(): void;
  received(frame: In): void;
  closed(code: number, text: string): void;
}

/** What is wrong with the link between a host and the rest. */
export interface LinkTrouble {
  /** Share of frames that are lost. As in a stream whose middle is gone, nothing after them arrives. */
  readonly dropRate: number;
  readonly duplicateRate: number;
  /** Share of frames that others may overtake. */
  readonly reorderRate: number;
  readonly extraDelayMs: number;
}

export interface NetworkOptions {
  readonly clock: Clock;
  readonly seed: number;
  readonly latencyMs: number;
  readonly jitterMs: number;
}

/** What a server does with a connection: it gets its own end and gives the handlers for it. */
type Accept<In, Out> = (socket: Socket<Out>) => SocketHandlers<In>;

/** `Up` are frames to the server, `Down` frames from it. */
export interface Network<Up, Down> {
  /** The server is up; without `accept` it is down and every connection to it is gone. */
  serve(accept: Accept<Up, Down> | null): void;
  connect(host: string, handlers: SocketHandlers<Down>): Socket<Up>;
  /** The host's process is gone: it hears nothing, its connections break. */
  crash(host: string): void;
  /** Connections of the host break, new ones fail, until `recover`. */
  cut(host: string): void;
  /** Frames from and to the host wait until `recover`; connections stay open. */
  isolate(host: string): void;
  trouble(host: string, trouble: Partial<LinkTrouble>): void;
  /** All is well again with the host's link. What was lost stays lost. */
  recover(host: string): void;
}

const NO_TROUBLE: LinkTrouble = { dropRate: 0, duplicateRate: 0, reorderRate: 0, extraDelayMs: 0 };

/** One direction of a connection. */
interface Stream {
  deliver: (frame: unknown) => void;
  end: (code: number, text: string) => void;
  lastArrivalMs: number;
  isLost: boolean;
  held: (() => void)[];
}

interface Link {
  readonly host: string;
  readonly up: Stream;
  readonly down: Stream;
  isOpen: boolean;
}

export function createNetwork<Up, Down>(options: NetworkOptions): Network<Up, Down> {
  const { clock, latencyMs, jitterMs } = options;
  const dice = createDice(options.seed, 'network');
  const links = new Set<Link>();
  const cutHosts = new Set<string>();
  const isolatedHosts = new Set<string>();
  const troubles = new Map<string, LinkTrouble>();
  let accept: Accept<Up, Down> | null = null;

  const troubleOf = (host: string): LinkTrouble => troubles.get(host) ?? NO_TROUBLE;

  /** Sends something along a stream: `arrive` runs at the other end when and as often as it gets there. */
  const transmit = (link: Link, stream: Stream, arrive: () => void): void => {
    const { dropRate, duplicateRate, reorderRate, extraDelayMs } = troubleOf(link.host);
    if (stream.isLost) return;
    if (isolatedHosts.has(link.host)) {
      stream.held.push(arrive);
      return;
    }
    if (dropRate > 0 && dice() < dropRate) {
      stream.isLost = true;
      return;
    }
    const delayMs = latencyMs + jitterMs * dice() + extraDelayMs;
    const soonestMs = clock.nowMs() + delayMs;
    const isOvertaken = reorderRate > 0 && dice() < reorderRate;
    const arrivalMs = isOvertaken ? soonestMs + 3 * latencyMs : Math.max(soonestMs, stream.lastArrivalMs);
    if (!isOvertaken) stream.lastArrivalMs = arrivalMs;
    clock.schedule(arrivalMs - clock.nowMs(), arrive);
    if (duplicateRate > 0 && dice() < duplicateRate) clock.schedule(arrivalMs - clock.nowMs(), arrive);
  };

  const shut = (link: Link): void => {
    link.isOpen = false;
    links.delete(link);
  };

  const breakLink = (link: Link, code: number, text: string): void => {
    if (!link.isOpen) return;
    shut(link);
    link.up.end(code, text);
    link.down.end(code, text);
  };

  const breakLinks = (host: string | null, text: string): void => {
    for (const link of Array.from(links))
      if (host === null || link.host === host) breakLink(link, 1006, text);
  };

  /** The end that writes to `stream`. Closing mutes the end itself, whose own stream is `own`. */
  const endOf = <Out>(link: Link, stream: Stream, own: Stream): Socket<Out> => {
    let isClosed = false;
    return {
      send(frame) {
        if (link.isOpen && !isClosed) transmit(link, stream, () => stream.deliver(frame));
      },
      close(code, text) {
        if (!link.isOpen || isClosed) return;
        isClosed = true;
        own.deliver = () => {};
        own.end = () => {};
        transmit(link, stream, () => {
          if (!link.isOpen) return;
          shut(link);
          stream.end(code, text);
        });
      },
    };
  };

  const newStream = (): Stream => ({
    deliver: () => {},
    end: () => {},
    lastArrivalMs: 0,
    isLost: false,
    held: [],
  });

  return {
    serve(next) {
      accept = next;
      if (next === null) breakLinks(null, 'the server is gone');
    },
    connect(host, handlers) {
      const link: Link = { host, up: newStream(), down: newStream(), isOpen: true };
      links.add(link);
      link.down.deliver = (frame) => handlers.received(frame as Down);
      link.down.end = (code, text) => handlers.closed(code, text);
      let isAccepted = false;
      transmit(link, link.up, () => {
        if (!link.isOpen || isAccepted) return;
        isAccepted = true;
        if (accept === null || cutHosts.has(host)) {
          breakLink(link, 1006, 'connection refused');
          return;
        }
        const serverHandlers = accept(endOf<Down>(link, link.down, link.up));
        link.up.deliver = (frame) => serverHandlers.received(frame as Up);
        link.up.end = (code, text) => serverHandlers.closed(code, text);
        transmit(link, link.down, () => handlers.opened?.());
      });
      return endOf<Up>(link, link.up, link.down);
    },
    crash(host) {
      for (const link of links) {
        if (link.host !== host) continue;
        link.down.deliver = () => {};
        link.down.end = () => {};
      }
      breakLinks(host, 'the other side is gone');
    },
    cut(host) {
      cutHosts.add(host);
      breakLinks(host, 'the link is cut');
    },
    isolate(host) {
      isolatedHosts.add(host);
    },
    trouble(host, trouble) {
      troubles.set(host, { ...troubleOf(host), ...trouble });
    },
    recover(host) {
      cutHosts.delete(host);
      isolatedHosts.delete(host);
      troubles.delete(host);
      for (const link of links) {
        if (link.host !== host) continue;
        for (const stream of [link.up, link.down]) {
          const held = stream.held.splice(0);
          for (const arrive of held) transmit(link, stream, arrive);
        }
      }
    },
  };
}
