/**
 * How V8 collects garbage in a process of galore-swarm. What passes through here (frames, tensors read back) is
 * large, lies outside V8's heap and dies young; the heap itself is small. V8 counts both together.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** The same for a worker, whose heap has grown before its first line runs: three semi-spaces of 2 MB. */
export const WORKER_YOUNG_GENERATION_MB = 6;

/**
 * Once the heap has grown by this, everything is collected, not just the young generation. V8's own choice for a
 * heap of 20 MB is 8 MB, which frames fill 25 times in a step of a 60M model with two trainers; the young
 * generation, whose collection frees them for next to nothing, is collected when there are 32 MB.
 */
const HEAP_GROWTH_PERCENT = 600;

/** What V8 lets come together in a small heap anyway. */
const MIN_CONTRIBUTION_BYTES = 8 * 1024 * 1024;

/**
 * To be called when a process starts and again in every new worker: V8 sets it back to 2 for each isolate.
 * Keeps the young generation at its first size. V8 would double it several times in the first minutes of a run; but
 * the frames and tensors it holds are freed only when it is collected: a large one lets tens of megabytes of garbage
 * pile up, and looks like a leak. Measured: 50 MB less for a trainer, a level resident size, no difference in
 * tokens a second.
 */
export function keepYoungGenerationSmall(): void {
  setFlagsFromString('--semi-space-growth-factor=1');
}

/** For what has no frames but makes much garbage of another kind: V8 may double the young generation again. */
export function letYoungGenerationGrow(): void {
  setFlagsFromString('--semi-space-growth-factor=2');
}

/**
 * For a coordinator, whose garbage is frames, once it is known how large a contribution of its run is. Measured with
 * a 60M model (40 MB) and two trainers: 300 ms of processor time less a step, in about the same memory; with eight
 * contributions of 15 MB 20 ms less at 600 than at 300, in the same memory. Where frames are small against the heap,
 * the heap would take the room for nothing.
 */
export function expectFrames(contributionBytes: number): void {
  if (contributionBytes < MIN_CONTRIBUTION_BYTES) return;
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`);
}

/** How much more garbage than at the last collection of everything a process may hold. */
const MAX_GROWTH_BYTES = 8 * 1024 * 1024;

/** The same for a coordinator, whose heap is small and whose messages come from anywhere. */
const MAX_COORDINATOR_GROWTH_BYTES = 4 * 1024 * 1024;

/** What a process holds. */
export interface MemoryInUse {
  readonly heapBytes: number;
  /** Frames and other arrays. */
  readonly outsideBytes: number;
}

/** By how much it may grow since everything was last collected. */
export interface GrowthLimits {
  readonly heapBytes: number;
  /** Of heap and arrays together; null: arrays do not count. */
  readonly totalBytes: number | null;
}

/** Remembers what was in use when everything was last collected. Pure. */
export class GrowthWatch {
  #after: MemoryInUse = { heapBytes: 0, outsideBytes: 0 };

  hasGrown(now: MemoryInUse, limits: GrowthLimits): boolean {
    const heapBytes = now.heapBytes - this.#after.heapBytes;
    if (heapBytes >= limits.heapBytes) return true;
    return (
      limits.totalBytes !== null &&
      heapBytes + now.outsideBytes - this.#after.outsideBytes >= limits.totalBytes
    );
  }

  collected(now: MemoryInUse): void {
    this.#after = now;
  }
}

const watch = new GrowthWatch();
let collect: (() => void) | null = null;

/**
 * Between steps: collects all garbage if the heap has grown by 8 MB since it was last done. What lives for a whole
 * step is old when it becomes garbage, and V8 collects that only when it runs out of 256 MB or sees much memory
 * outside the heap come and go; buffers that are used again (buffer-pool.ts) show it too little. Costs 20 ms once in
 * some forty steps.
 */
export function collectWhenGrown(): void {
  if (watch.hasGrown(memoryInUse(), { heapBytes: MAX_GROWTH_BYTES, totalBytes: null })) collectAll();
}

/**
 * For a coordinator at any time: what comes in may be garbage though no step ends, for there may be nobody who
 * trains. Frames do not count: those of the step under way are no garbage.
 */
export function collectGrownHeap(): void {
  collectCompactly({ heapBytes: MAX_COORDINATOR_GROWTH_BYTES, totalBytes: null });
}

/** For a coordinator between steps: its garbage is frames, of which it may hold four times those of one step. */
export function collectGrownFrames(contributionBytes: number): void {
  const totalBytes = Math.max(MAX_COORDINATOR_GROWTH_BYTES, 4 * contributionBytes);
  collectCompactly({ heapBytes: MAX_COORDINATOR_GROWTH_BYTES, totalBytes });
}

/**
 * Pages with a fifth of holes are emptied, too, which V8 would leave as they are, and which become more and more in
 * the first minutes. Measured in a run of a tiny model: 85 MB resident after two minutes instead of 90.
 */
function collectCompactly(limits: GrowthLimits): void {
  if (!watch.hasGrown(memoryInUse(), limits)) return;
  setFlagsFromString('--optimize-for-size');
  collectAll();
  setFlagsFromString('--no-optimize-for-size');
}

function collectAll(): void {
  if (collect === null) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
  watch.collected(memoryInUse());
}

function memoryInUse(): MemoryInUse {
  const { used_heap_size: heapBytes, external_memory: outsideBytes } = getHeapStatistics();
  return { heapBytes, outsideBytes };
}
