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

/** How much a process may grow between two steps' ends before everything is collected. */
const MAX_GROWTH_BYTES = 8 * 1024 * 1024;

let collect: (() => void) | null = null;
let bytesAfterCollection = 0;

/**
 * Between steps: collects all garbage if the heap has grown by 8 MB since it was last done. What lives for a whole
 * step is old when it becomes garbage, and V8 collects that only when it runs out of 256 MB or sees much memory
 * outside the heap come and go; buffers that are used again (buffer-pool.ts) show it too little. Costs 20 ms once in
 * some forty steps.
 * @param frameBytes for a process whose garbage is frames, which lie outside the heap: they count too, and it may
 * grow by four times as much as those of one step are
 */
export function collectWhenGrown(frameBytes: number | null = null): void {
  const grown = Math.max(MAX_GROWTH_BYTES, 4 * (frameBytes ?? 0));
  if (bytesInUse(frameBytes !== null) < bytesAfterCollection + grown) return;
  if (collect === null) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
  bytesAfterCollection = bytesInUse(frameBytes !== null);
}

function bytesInUse(countsFrames: boolean): number {
  const { used_heap_size: heapBytes, external_memory: outsideBytes } = getHeapStatistics();
  return countsFrames ? heapBytes + outsideBytes : heapBytes;
}
