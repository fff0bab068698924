/**
 * Makes a program that imports tfjs by itself, such as a test, compute on one device:
 * `GALORE_DEVICE=gpu:0 node --import ./dist/bench/on-device.js …`. The engine for it must be installed.
 */
import { ensureEngine } from '../src/cli/engine.ts';
import { isDeviceWish } from '../src/device-name.ts';
import { loadEngine } from '../src/trainer/engine/load.ts';

const wish = process.env['GALORE_DEVICE'] ?? 'auto';
if (!isDeviceWish(wish)) throw new Error(`GALORE_DEVICE is ${wish}`);
const [device] = await ensureEngine(wish);
await loadEngine({ precision: 'f32', threads: 2, device });
