/**
 * The library: a coordinator and trainers for programs of your own. docs/api.md explains it; the commands are in
 * src/cli. What is not exported here may change with any version.
 */
export type { RunConfig } from './config/schema.ts';
export type { RunReport, RunSummary, StepReport, Validation } from './coordinator/api.ts';
export {
  CheckpointError,
  ConfigError,
  DataError,
  EngineError,
  GaloreError,
  NotFiniteError,
  OperatingError,
  ProtocolError,
  TensorShapeError,
  TrainerError,
  type ConfigFault,
} from './errors.ts';
export {
  Coordinator,
  type CoordinatorSettings,
  type NewRunSettings,
  type RunFields,
} from './library/coordinator.ts';
export { Trainer, type TrainerSettings } from './library/trainer.ts';
export { createLogger, type Logger, type LoggerOptions } from './log.ts';
