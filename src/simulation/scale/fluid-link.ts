/**
 * A link that many transfers share, as a fluid: each transfer has at most the rate of its own end, and what the link
 * has beyond that is divided equally among those that could use more (max-min fairness, what TCP comes to over times
 * longer than a round trip). Ends of the same rate are one class, whose transfers all have the same rate at any time:
 * so an event costs a search in a heap and a walk over the classes, however many transfers there are.
 */
import type { Clock } from '../clock.ts';
import { createHeap, type Heap } from '../heap.ts';

/** One end of the link: a queue of bytes that are sent in order. */
export interface Flow {
  /** More to send after what is there; `done` runs when the last of it has left the link. */
  send(bytes: number, done?: () => void): void;
  /** Forgets what has not been sent, and whoever waits for it. */
  cancel(): void;
}

export interface FluidLink {
  /**
   * @param bytesPerSecond of this end alone, above 0; Infinity: the link is the only limit
   * @param burstBytes that leave at once after a rest in which they could have been sent, as a token bucket lets them
   */
  flow(bytesPerSecond: number, burstBytes?: number): Flow;
  /** Seconds so far in which the link itself was what transfers waited for. */
  fullSeconds(): number;
}

/** Transfers that are nearer to their end than this are done, or than what they get in so many seconds: times are rounded. */
const CLOSE_BYTES = 0.01;
const CLOSE_SECONDS = 1e-8;
/** Nothing is faster. */
const MOST_BYTES_PER_SECOND = 1e15;
/** Classes lie this far apart, at most: rates are taken as the nearest. */
const RATES_PER_DOUBLING = 16;

interface Class {
  readonly rate: number; // of one end, bytes a second
  /** Bytes that each transfer that was there all the time has had. */
  served: number;
  /** What each has now. */
  current: number;
  /** Flows that have something to send. */
  active: number;
  /** By what `served` is when the next of their marks is reached. */
  waiting: Heap<FlowState>;
}

/** A flow ends a mark when its class has served so much. */
interface FlowState {
  readonly group: Class;
  /** Of its class when all it has is sent; below or at `served`: it is idle. */
  end: number;
  isActive: boolean;
  /** Where in the queue somebody waits, ascending; those without anybody are merged into `end`. */
  readonly marks: { readonly at: number; readonly done: () => void }[];
  /** Where in `waiting` it counts: older entries of the heap are void. */
  turn: number;
  /** Bytes that may leave at once, and since when it has rested. */
  credit: number;
  restingMs: number;
}

/** @param bytesPerSecond of the link, shared by all; Infinity: ends alone are the limit */
export function createFluidLink(clock: Clock, bytesPerSecond: number): FluidLink {
  const classes = new Map<number, Class>();
  /** Ascending by rate. */
  let sorted: Class[] = [];
  let lastMs = clock.nowMs();
  let fullSeconds = 0;
  let isFull = false;
  let isDirty = false;
  let wakeMs = Infinity;

  const classOf = (rate: number): Class => {
    const step = Math.round(Math.log2(rate) * RATES_PER_DOUBLING);
    let group = classes.get(step);
    if (group === undefined) {
      // The rate of the first of its kind: where all ends are alike nothing is rounded.
      group = { rate, served: 0, current: 0, active: 0, waiting: createHeap<FlowState>() };
      classes.set(step, group);
      sorted = [...classes.values()].sort((a, b) => a.rate - b.rate);
    }
    return group;
  };

  /** Brings what was served up to now. */
  const serve = (): void => {
    const nowMs = clock.nowMs();
    const seconds = (nowMs - lastMs) / 1000;
    lastMs = nowMs;
    if (seconds <= 0) return;
    if (isFull) fullSeconds += seconds;
    for (const group of sorted) {
      if (group.active === 0) continue;
      group.served += group.current * seconds;
    }
  };

  /** The level up to which ends are given what they can use; those below it keep their own rate. */
  const share = (): void => {
    let left = Math.min(bytesPerSecond, MOST_BYTES_PER_SECOND);
    let flows = 0;
    for (const group of sorted) flows += group.active;
    isFull = false;
    for (const group of sorted) {
      if (group.active === 0) continue;
      const level = left / flows;
      group.current = Math.min(group.rate, level);
      if (level < group.rate) isFull = true;
      left -= group.current * group.active;
      flows -= group.active;
    }
  };

  /** After all changes of one moment: rates anew, and when the next mark is reached. */
  const settle = (): void => {
    isDirty = false;
    serve();
    share();
    let nextMs = Infinity;
    for (const group of sorted) {
      if (group.active === 0) continue;
      const first = peek(group);
      if (first === undefined) continue;
      const seconds = (first - group.served) / group.current;
      nextMs = Math.min(nextMs, clock.nowMs() + 1000 * Math.max(0, seconds));
    }
    // One that is too early finds nothing to do and looks again.
    if (nextMs >= wakeMs) return;
    wakeMs = nextMs;
    clock.schedule(nextMs - clock.nowMs(), () => {
      // Another that is earlier may have been asked for since.
      if (wakeMs === nextMs) wake();
    });
  };

  const touch = (): void => {
    if (isDirty) return;
    isDirty = true;
    clock.schedule(0, settle);
  };

  /** What the class will have served when its next mark is reached. */
  const peek = ({ waiting }: Class): number | undefined => {
    for (;;) {
      const first = waiting.first();
      if (first === undefined || first.turn === waiting.firstTag()) return waiting.firstKey();
      waiting.pop();
    }
  };

  const wake = (): void => {
    wakeMs = Infinity;
    serve();
    for (const group of sorted) {
      const close = CLOSE_BYTES + CLOSE_SECONDS * group.current;
      for (let at = peek(group); at !== undefined && at - group.served <= close; at = peek(group)) {
        reach(group.waiting.pop()!, at);
      }
      restIfIdle(group);
    }
    touch();
  };

  /** All that is left of its heap is void; small numbers are exact. */
  const restIfIdle = (group: Class): void => {
    if (group.active > 0) return;
    group.served = 0;
    group.waiting = createHeap<FlowState>();
  };

  const reach = (flow: FlowState, at: number): void => {
    flow.turn += 1;
    const done: (() => void)[] = [];
    while (flow.marks.length > 0 && flow.marks[0]!.at <= at) done.push(flow.marks.shift()!.done);
    if (flow.marks.length > 0 || flow.end > at) queue(flow);
    else {
      flow.isActive = false;
      flow.restingMs = clock.nowMs();
      flow.group.active -= 1;
    }
    for (const each of done) each();
  };

  const queue = (flow: FlowState): void => {
    flow.group.waiting.push(flow.marks[0]?.at ?? flow.end, flow, flow.turn);
  };

  return {
    flow(rate, burstBytes = 0) {
      const group = classOf(Math.min(rate, MOST_BYTES_PER_SECOND));
      const rest = { credit: burstBytes, restingMs: clock.nowMs() };
      const flow: FlowState = { group, end: 0, isActive: false, marks: [], turn: 0, ...rest };
      return {
        send(bytes, done) {
          serve();
          const wasWaitingFor = flow.isActive ? (flow.marks[0]?.at ?? flow.end) : null;
          if (!flow.isActive) {
            flow.isActive = true;
            flow.end = group.served;
            group.active += 1;
            const rested = (group.rate * (clock.nowMs() - flow.restingMs)) / 1000;
            flow.credit = Math.min(burstBytes, flow.credit + rested);
          }
          const atOnce = Math.min(flow.credit, bytes);
          flow.credit -= atOnce;
          flow.end += bytes - atOnce;
          if (done !== undefined) flow.marks.push({ at: flow.end, done });
          const waitsFor = flow.marks[0]?.at ?? flow.end;
          if (wasWaitingFor !== waitsFor) {
            flow.turn += 1;
            queue(flow);
          }
          touch();
        },
        cancel() {
          if (!flow.isActive) return;
          serve();
          flow.isActive = false;
          flow.restingMs = clock.nowMs();
          flow.marks.length = 0;
          flow.turn += 1;
          group.active -= 1;
          restIfIdle(group);
          touch();
        },
      };
    },
    fullSeconds() {
      serve();
      return fullSeconds;
    },
  };
}
