/** From a wish such as `auto` or `gpu:1` to devices that can be loaded: looks, chooses, installs. SHELL. */
import { gpuNumber, type DeviceName, type DeviceWish } from '../../device-name.ts';
import { chooseDevices } from './choose-device.ts';
import { findGpus, type Gpu } from './gpus.ts';
import { ensureEngine, isEngineInstalled, type EngineOptions } from './install.ts';
import type { EngineVariant } from './release.ts';

/** One device with its engine installed: what `loadEngine` needs to compute on it and on no other. */
export interface ReadyDevice {
  readonly name: DeviceName;
  /** The folder of the addon. */
  readonly folder: string;
  /** Null for the processor. */
  readonly gpu: Gpu | null;
}

export interface ReadyOptions extends EngineOptions {
  readonly wish: DeviceWish;
  /** Trainers that need a device. */
  readonly count: number;
  /** CUDA_VISIBLE_DEVICES of this process; null: unset. */
  readonly visibleGpus: string | null;
  /** Told what a person should know about the choice. */
  readonly onNotice: (text: string) => void;
  /** For tests. */
  readonly findGpus?: typeof findGpus;
}

/** The build of TensorFlow that computes on a device. */
export function variantFor(device: DeviceName): EngineVariant {
  return device === 'cpu' ? 'cpu' : 'gpu';
}

/**
 * Devices for `count` trainers, their engines installed if they were not. Takes milliseconds if they were.
 * @throws EngineError if a GPU was asked for that is not there, or an engine cannot be installed.
 */
export async function readyDevices(options: ReadyOptions): Promise<readonly ReadyDevice[]> {
  const { wish, count, visibleGpus, onNotice } = options;
  const [search, isGpuEngineInstalled] =
    wish === 'cpu'
      ? [{ gpus: [], obstacle: null }, false]
      : await Promise.all([(options.findGpus ?? findGpus)(visibleGpus), isEngineInstalled(options, 'gpu')]);
  const { devices, notices } = chooseDevices(wish, count, { search, isGpuEngineInstalled });
  for (const notice of notices) onNotice(notice);
  const folders = new Map<EngineVariant, string>();
  for (const variant of new Set(devices.map(variantFor))) {
    folders.set(variant, (await ensureEngine({ ...options, variant })).folder);
  }
  return devices.map((name) => ({
    name,
    folder: folders.get(variantFor(name)) ?? '',
    gpu: search.gpus[gpuNumber(name) ?? -1] ?? null,
  }));
}
