/** The parts of the program that do the work, loaded when first used: --help needs none of them. */
import type { Services } from './context.ts';

export const services: Services = {
  startCoordinator: async (options) =>
    (await load<Pick<Services, 'startCoordinator'>>('../coordinator/coordinator.js')).startCoordinator(
      options,
    ),
  runTrainer: async (options) =>
    (await load<Pick<Services, 'runTrainer'>>('../trainer/trainer.js')).runTrainer(options),
  evaluateFolder: async (request) =>
    (await load<Pick<Services, 'evaluateFolder'>>('../trainer/evaluate.js')).evaluateFolder(request),
  generateText: async (request) =>
    (await load<Pick<Services, 'generateText'>>('../trainer/generate.js')).generateText(request),
};

async function load<T>(path: string): Promise<T> {
  return (await import(new URL(path, import.meta.url).href)) as T;
}
