/**
 * Bytes on the sockets: by trainer, direction and what they are for, and of contributions and updates by how
 * the slot travels. Counted when a frame is given to a socket or comes from one; pings, the HTTP upgrade and what
 * comes before the Welcome are left out. Pure but for what it remembers.
 */
import type { Policy, Slot } from '../galore/slot.ts';
import { frameKind, TRAFFIC_KINDS, type TrafficKind } from '../protocol/frame-kind.ts';
import { socketBytes } from '../protocol/socket-bytes.ts';

/** As seen from the trainer: `up` it sends, `down` it receives. */
export type Direction = 'up' | 'down';

/** Bytes by kind; what is zero is left out. */
export type KindBytes = Readonly<Partial<Record<TrafficKind, number>>>;

/** What was counted in some time. */
export interface TrafficReport {
  /** By trainer id, ascending. */
  readonly trainers: Readonly<Record<string, Readonly<Record<Direction, KindBytes>>>>;
  /** Contributions up and updates down of all trainers together; their ends (Contribution, Commit) are left out. */
  readonly policies: Readonly<Partial<Record<Policy, Readonly<Record<Direction, number>>>>>;
}

export class Traffic {
  readonly #slots: readonly Slot[];
  #trainers = new Map<string, Record<Direction, Map<TrafficKind, number>>>();
  #policies = new Map<Policy, Record<Direction, number>>();

  constructor(slots: readonly Slot[]) {
    this.#slots = slots;
  }

  /** A frame of this trainer. */
  count(trainerId: string, direction: Direction, frame: Uint8Array): void {
    const { kind, slot } = frameKind(frame);
    const bytes = socketBytes(frame.length, direction === 'up');
    let kinds = this.#trainers.get(trainerId);
    if (kinds === undefined) {
      kinds = { up: new Map(), down: new Map() };
      this.#trainers.set(trainerId, kinds);
    }
    kinds[direction].set(kind, (kinds[direction].get(kind) ?? 0) + bytes);
    const policy = slot === null ? undefined : this.#slots[slot]?.policy;
    if (policy === undefined) return;
    const sums = this.#policies.get(policy) ?? { up: 0, down: 0 };
    sums[direction] += bytes;
    this.#policies.set(policy, sums);
  }

  /** Everything since the last time. */
  take(): TrafficReport {
    const trainers = [...this.#trainers].sort(([a], [b]) => (a < b ? -1 : 1));
    const report = {
      trainers: Object.fromEntries(
        trainers.map(([id, { up, down }]) => [id, { up: inOrder(up), down: inOrder(down) }]),
      ),
      policies: Object.fromEntries(this.#policies),
    };
    this.#trainers = new Map();
    this.#policies = new Map();
    return report;
  }
}

function inOrder(kinds: ReadonlyMap<TrafficKind, number>): KindBytes {
  const found = TRAFFIC_KINDS.filter((kind) => kinds.has(kind));
  return Object.fromEntries(found.map((kind) => [kind, kinds.get(kind)]));
}

/** The sum of reports; what is no report (a line of an older version) counts as nothing. */
export function addTraffic(sum: TrafficReport, line: unknown): TrafficReport {
  if (typeof line !== 'object' || line === null) return sum;
  const merged = addNumbers(sum, line) as Partial<TrafficReport>;
  return { trainers: merged.trainers ?? {}, policies: merged.policies ?? {} };
}

/** Numbers at the same place in two trees of objects are added. */
function addNumbers(a: unknown, b: unknown): unknown {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  if (!isObject(b)) return typeof b === 'number' ? b : a;
  if (!isObject(a)) return b;
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return Object.fromEntries(names.map((name) => [name, addNumbers(a[name], b[name])]));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
