/** Starts the coordinator of a run, wherever the run is kept. SHELL. */
import type { StartCoordinator } from './api.ts';
import { startCoordinator } from './coordinator.ts';

export const start: StartCoordinator = (options) => startCoordinator(options);
