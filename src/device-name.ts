/** How a device is named on the command line and in a run file. Pure. */

/** One device: the processor, or the GPU of this number, counted from 0 as `nvidia-smi` lists them. */
export type DeviceName = 'cpu' | `gpu:${number}`;

/** auto: gpu:0 where a GPU and the engine for it are there, else cpu. */
export type DeviceWish = 'auto' | DeviceName;

/** What may be written, in words. */
export const DEVICE_WORDS = 'auto, cpu, or gpu: and a number such as gpu:0';

export const DEVICE_PATTERN = /^(auto|cpu|gpu:(0|[1-9]\d{0,2}))$/;

/** Whether `text` names a device, or leaves the choice. */
export function isDeviceWish(text: string): text is DeviceWish {
  return DEVICE_PATTERN.test(text);
}

/** The number of a GPU; null for the processor. */
export function gpuNumber(device: DeviceName): number | null {
  return device === 'cpu' ? null : Number(device.slice('gpu:'.length));
}
