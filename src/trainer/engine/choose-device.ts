/** Which devices trainers compute on: what was asked for against what is there. Pure. */
import { gpuNumber, type DeviceName, type DeviceWish } from '../../device-name.ts';
import { EngineError } from '../../errors.ts';
import type { Gpu, GpuSearch } from './gpus.ts';

/** CUDA 12 runs with any driver from this one on (NVIDIA's rule of minor version compatibility). */
export const OLDEST_DRIVER = '525.60.13';
/** The oldest generation of GPUs that TensorFlow 2.21 is built for: Pascal. */
export const OLDEST_CAPABILITY = '6.0';

/** What decides, beside the wish. */
export interface Machine {
  readonly search: GpuSearch;
  readonly isGpuEngineInstalled: boolean;
}

export interface Choice {
  /** One for each trainer. */
  readonly devices: readonly DeviceName[];
  /** What a person should know about the choice: whole sentences without a full stop. */
  readonly notices: readonly string[];
}

/**
 * Devices for `count` trainers. `auto` spreads them over the GPUs that can be used; a named device is taken by all.
 * @throws EngineError if a GPU was asked for that is not there or cannot be used: never another device instead.
 */
export function chooseDevices(wish: DeviceWish, count: number, machine: Machine): Choice {
  if (wish !== 'auto') {
    const number = gpuNumber(wish);
    if (number !== null) mustBeThere(wish, number, machine.search);
    const devices = Array.from({ length: count }, () => wish);
    return { devices, notices: number === null ? [] : sharedGpus(devices) };
  }
  const usable = machine.search.gpus.filter((gpu) => unusable(gpu) === null);
  if (!machine.isGpuEngineInstalled || usable.length === 0) {
    const notices = reasonsForCpu(machine, usable);
    return { devices: Array.from({ length: count }, () => 'cpu' as const), notices };
  }
  const devices = Array.from({ length: count }, (_, index) => {
    const gpu = usable[index % usable.length];
    return `gpu:${gpu?.number ?? 0}` as const;
  });
  return { devices, notices: sharedGpus(devices) };
}

/** Why the processor is taken, where a GPU could be expected; nothing on a machine without one. */
function reasonsForCpu({ search, isGpuEngineInstalled }: Machine, usable: readonly Gpu[]): string[] {
  const [first] = search.gpus;
  if (usable.length > 0) {
    return [
      `computing on the CPU although there is a GPU (${usable[0]?.name}): ` +
        '`galore engine install --gpu` installs what it needs',
    ];
  }
  if (!isGpuEngineInstalled) return [];
  const reason = first === undefined ? search.obstacle : unusable(first);
  return [`computing on the CPU: ${reason ?? 'there is no GPU'}`];
}

function sharedGpus(devices: readonly DeviceName[]): string[] {
  return [...new Set(devices)].flatMap((device) => {
    const trainers = devices.flatMap((other, index) => (other === device ? [`trainer-${index + 1}`] : []));
    return trainers.length > 1 ? [`${trainers.join(', ')} share ${device}`] : [];
  });
}

function mustBeThere(wish: DeviceName, number: number, { gpus, obstacle }: GpuSearch): void {
  const gpu = gpus[number];
  const why = gpu ? unusable(gpu) : null;
  if (gpu && why === null) return;
  const all = gpus.map((one) => `gpu:${one.number} (${one.name})`).join(', ');
  const there = gpus.length === 0 ? `no GPU here: ${obstacle ?? 'none was found'}` : `there is ${all}`;
  throw new EngineError(
    gpu
      ? `${wish} was asked for and cannot be used: ${why}`
      : `${wish} was asked for, and ${there}; --device cpu computes on the processor`,
  );
}

/** Why the engine cannot compute on this GPU; null if nothing is known against it. */
function unusable({ name, computeCapability, driverVersion }: Gpu): string | null {
  if (!isAtLeast(driverVersion, OLDEST_DRIVER)) {
    return `its driver is ${driverVersion}, and CUDA 12 needs ${OLDEST_DRIVER} or newer`;
  }
  if (!isAtLeast(computeCapability, OLDEST_CAPABILITY)) {
    return `${name} has compute capability ${computeCapability}, and TensorFlow needs ${OLDEST_CAPABILITY} or more`;
  }
  return null;
}

/** Compares dotted numbers; one that cannot be read counts as new enough. */
export function isAtLeast(version: string, least: string): boolean {
  const numbers = version.split('.').map(Number);
  if (numbers.some(Number.isNaN)) return true;
  for (const [index, wanted] of least.split('.').map(Number).entries()) {
    const given = numbers[index] ?? 0;
    if (given !== wanted) return given > wanted;
  }
  return true;
}
