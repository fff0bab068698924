/** Which NVIDIA GPUs this process may use, as the driver's own program tells. SHELL. */
import { runProgram } from './program.ts';

/** One GPU. */
export interface Gpu {
  /** The N of gpu:N: its place among those this process may use. */
  readonly number: number;
  /** The name that holds in any order of counting, such as GPU-1b2c…. */
  readonly uuid: string;
  readonly name: string;
  readonly memoryBytes: number;
  /** Such as 8.6. */
  readonly computeCapability: string;
  readonly driverVersion: string;
}

/** The GPUs found; where there is none, `obstacle` says why in words. */
export interface GpuSearch {
  readonly gpus: readonly Gpu[];
  readonly obstacle: string | null;
}

const FIELDS = ['index', 'uuid', 'name', 'memory.total', 'compute_cap', 'driver_version'];
const QUERY = [`--query-gpu=${FIELDS.join()}`, '--format=csv,noheader,nounits'];
/** WSL puts the driver's programs outside PATH. */
const PROGRAMS = ['nvidia-smi', '/usr/lib/wsl/lib/nvidia-smi'];
const MEBIBYTE = 2 ** 20;

/**
 * The GPUs this process may use. `visible` is CUDA_VISIBLE_DEVICES as it was given to this process (null: unset):
 * a scheduler names there which GPUs of the machine are ours, and in which order.
 */
export async function findGpus(visible: string | null, run = runProgram): Promise<GpuSearch> {
  let reason = '';
  for (const program of PROGRAMS) {
    try {
      return visibleAmong(parseGpus(await run(program, QUERY)), visible);
    } catch (error) {
      if (reason === '') reason = error instanceof Error ? error.message : String(error);
    }
  }
  const text = reason.replace(/\s+/g, ' ').slice(0, 300);
  return {
    gpus: [],
    obstacle: /ENOENT/.test(text) ? 'nvidia-smi, which comes with NVIDIA’s driver, is not here' : text,
  };
}

/** Reads what nvidia-smi prints for QUERY: a line for each GPU. Lines of another form are no GPU. */
export function parseGpus(output: string): readonly Gpu[] {
  const gpus: Gpu[] = [];
  for (const line of output.split('\n')) {
    const [index, uuid, name, memory, computeCapability, driverVersion] = line
      .split(', ')
      .map((s) => s.trim());
    if (!/^\d+$/.test(index ?? '') || driverVersion === undefined) continue;
    gpus.push({
      number: Number(index),
      uuid: uuid ?? '',
      name: name ?? '',
      memoryBytes: (Number(memory) || 0) * MEBIBYTE, // "[N/A]" where memory is shared with the processor
      computeCapability: computeCapability ?? '',
      driverVersion,
    });
  }
  return gpus;
}

/** Those that CUDA_VISIBLE_DEVICES leaves, numbered in its order; as CUDA does, nothing after an unknown one. */
function visibleAmong(all: readonly Gpu[], visible: string | null): GpuSearch {
  if (all.length === 0) return { gpus: [], obstacle: 'nvidia-smi lists no GPU' };
  if (visible === null) return { gpus: all, obstacle: null };
  const gpus: Gpu[] = [];
  for (const entry of visible.split(',').map((text) => text.trim())) {
    const gpu = all.find(
      ({ number, uuid }) => entry === String(number) || (entry !== '' && uuid.startsWith(entry)),
    );
    if (gpu === undefined) break;
    gpus.push({ ...gpu, number: gpus.length });
  }
  const obstacle = `CUDA_VISIBLE_DEVICES is "${visible}" and names none of the ${all.length} GPUs of this machine`;
  return { gpus, obstacle: gpus.length === 0 ? obstacle : null };
}
