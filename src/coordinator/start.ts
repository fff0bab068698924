/** Starts the coordinator of a run, wherever the run is kept. SHELL. */
import type { StartCoordinator } from './api.ts';
import { startCoordinator } from './coordinator.ts';
import { startInStore } from './leadership.ts';
import { isKeptElsewhere } from './open-authority.ts';

export const start: StartCoordinator = async (options) =>
  isKeptElsewhere(options) ? await startInStore(options) : await startCoordinator(options);
