/** Measures the memory of training steps of a model with random weights, in this process. SHELL. */
import { sizeOf, matrixShape, hasBasis, type Slot } from '../galore/slot.ts';
import { derive } from '../random.ts';
import type { Device } from './engine/device.ts';
import { loadEngine } from './engine/load.ts';
import { TensorLedger } from './engine/tensor-ledger.ts';
import { LocalStep, type UpdateTime } from './local-step.ts';
import { randomBatch, randomWeights, type MeasuredModel } from './measured-model.ts';
import { LlamaModel } from './model/llama.ts';
import { WeightStore } from './model/weights.ts';

/** Bytes of tensors and arrays that live from step to step. */
export interface KeptBytes {
  readonly parameters: number;
  readonly weightBytes: number;
  /** The optimizer's state. */
  readonly stateBytes: number;
  readonly basisBytes: number;
}

/** The most bytes there were during a step. */
export interface PeakBytes {
  /** Of tensors, by TensorLedger, and of the arrays that live from step to step. */
  readonly tensorBytes: number;
  /** Of the process, engine and all, up to the end of that step. */
  readonly rssBytes: number;
}

export interface MemoryMeasurement extends KeptBytes {
  readonly device: Device;
  /** The matrices of the decoder layers alone. */
  readonly linear: KeptBytes & {
    /** State and bases by the paper's formula, f32: 4 (mr + 2nr) for each matrix; null without bases. */
    readonly formulaBytes: number | null;
  };
  /** All gradients at once. */
  readonly gradientBytes: number;
  /** With updates as soon as a gradient is there, and after backward. */
  readonly peak: Readonly<Record<UpdateTime, PeakBytes>>;
}

/** Measures. @throws EngineError, TensorShapeError */
export async function measureMemory(request: MeasuredModel): Promise<MemoryMeasurement> {
  const { model: config, slots, sequences, length, seed } = request;
  const { precision, threads, device } = request;
  const engine = await loadEngine({ precision, threads, device });
  const ledger = new TensorLedger(engine.tf);
  const weights = await WeightStore.fromStream(randomWeights(slots, config, seed));
  const model = new LlamaModel(config, weights, request.options);
  const batch = randomBatch(config, sequences, length, derive(seed, 'batch'));

  const measure = (updates: UpdateTime): { peak: PeakBytes; all: KeptBytes; linear: KeptBytes } => {
    const local = new LocalStep(model, slots, request.hyper, updates);
    try {
      local.run(batch); // the engine takes over arrays when their tensors are first used
      ledger.restart();
      local.run(batch);
      const tensorBytes = ledger.peakBytes + local.arrayBytes + weights.arrayBytes;
      const peak = { tensorBytes, rssBytes: process.resourceUsage().maxRSS * 1024 };
      const kept = (chosen: readonly Slot[]): KeptBytes => ({
        parameters: chosen.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
        weightBytes: chosen.reduce((sum, { name }) => sum + weights.bytesOf(name), 0),
        ...local.bytesOf(chosen),
      });
      return { peak, all: kept(slots), linear: kept(slots.filter(isLinear)) };
    } finally {
      local.dispose();
    }
  };
  // In this order: resident memory never falls.
  const perLayer = measure('per-layer');
  const afterBackward = measure('after-backward');
  weights.dispose();
  return {
    device: engine.device,
    ...perLayer.all,
    linear: { ...perLayer.linear, formulaBytes: formulaBytes(slots.filter(isLinear)) },
    gradientBytes: 4 * perLayer.all.parameters,
    peak: { 'per-layer': perLayer.peak, 'after-backward': afterBackward.peak },
  };
}

/** A matrix of a decoder layer: what the paper's table counts. */
function isLinear({ name, shape }: Slot): boolean {
  return name.startsWith('model.layers.') && shape.length === 2;
}

/** Table 1 of GaLore (arXiv 2403.03507) in f32: mr + 2nr numbers for a matrix of m x n, m <= n. */
function formulaBytes(slots: readonly Slot[]): number | null {
  const projected = slots.filter(hasBasis);
  if (projected.length === 0) return null;
  return projected.reduce((sum, slot) => {
    const [m, n] = matrixShape(slot).toSorted((a, b) => a - b) as [number, number];
    return sum + 4 * (m * slot.rank + 2 * n * slot.rank);
  }, 0);
}
