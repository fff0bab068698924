/** The parts of the program that do the work, loaded when first used: --help needs none of them. */
import type { Services } from './context.ts';

export const services: Services = {
  ensureEngine: async (wish, count) => (await import('./engine.ts')).ensureEngine(wish, count),
  startCoordinator: async (options) => (await import('../coordinator/start.ts')).start(options),
  startGateway: async (options) => (await import('../gateway/gateway.ts')).startGateway(options),
  runTrainer: async (options) => (await import('../trainer/trainer.ts')).runTrainer(options),
  evaluateModel: async (request) => (await import('../trainer/evaluate-model.ts')).evaluateModel(request),
  predictClasses: async (request) => (await import('../trainer/predict-classes.ts')).predictClasses(request),
  exportModel: async (request) => (await import('../files/model-export.ts')).exportModel(request),
  exportAdapter: async (request) => (await import('../files/adapter-export.ts')).exportAdapter(request),
  openMadeWeights: async (...of) => (await import('../trainer/made-weights.ts')).openMadeWeightsHere(...of),
  measureStep: async (request) => (await import('../trainer/measure-step.ts')).measureStep(request),
  follow: async (options) => (await import('../trainer/follower.ts')).follow(options),
  continueText: async (request) => (await import('../trainer/continue-text.ts')).continueText(request),
};
