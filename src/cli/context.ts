/**
 * Everything a command touches outside itself, as one argument: streams, signals, clock, processes,
 * and the parts of the program that do the work. index.ts makes the real one; tests make their own.
 */
import type { Environment } from '../config/environment.ts';
import type { DeviceWish } from '../device-name.ts';
import type { StartCoordinator } from '../coordinator/api.ts';
import type { ExportAdapter } from '../files/adapter-export.ts';
import type { ExportModel } from '../files/model-export.ts';
import type { StartGateway } from '../gateway/api.ts';
import type { RunTrainer } from '../trainer/api.ts';
import type { ContinueText } from '../trainer/continue-text.ts';
import type { ReadyDevice } from '../trainer/engine/ready-device.ts';
import type { EvaluateModel } from '../trainer/evaluate-model.ts';
import type { Follow } from '../trainer/follower.ts';
import type { OpenMadeWeights } from '../trainer/made-weights.ts';
import type { PredictClasses } from '../trainer/predict-classes.ts';
import type { MeasureStep } from '../trainer/measure-step.ts';
import type { OutputStream } from './display.ts';
import type { LaunchProcess } from './local-trainers.ts';

/** The signals that ask a command to end. */
export const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
export type StopSignal = (typeof STOP_SIGNALS)[number];

/** The part of `process` that tells of signals. */
export interface SignalSource {
  on(signal: StopSignal, listener: () => void): unknown;
  off(signal: StopSignal, listener: () => void): unknown;
}

/** What the commands do their work with; loaded when first used, so that --help is quick. */
export interface Services {
  /**
   * A device for each of `count` trainers (default: 1) as wished for (default: auto), with its engine: installed
   * if it is not there, saying so. @throws EngineError
   */
  readonly ensureEngine: (wish?: DeviceWish, count?: number) => Promise<readonly ReadyDevice[]>;
  readonly startCoordinator: StartCoordinator;
  readonly startGateway: StartGateway;
  readonly runTrainer: RunTrainer;
  readonly evaluateModel: EvaluateModel;
  readonly continueText: ContinueText;
  readonly predictClasses: PredictClasses;
  readonly exportModel: ExportModel;
  readonly exportAdapter: ExportAdapter;
  readonly openMadeWeights: OpenMadeWeights;
  readonly measureStep: MeasureStep;
  readonly follow: Follow;
}

export interface CliContext {
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly environment: Environment;
  readonly signals: SignalSource;
  readonly services: Services;
  readonly workingDir: string;
  readonly hostName: string;
  readonly processId: number;
  readonly cores: number;
  /** How a person calls this program: `galore`, or `node bin/galore.js` in a checkout. */
  readonly commandName: string;
  /** Starts `galore` with these arguments as a process of its own. */
  readonly launchProcess: LaunchProcess;
  /** Calls back once the process that started this one is gone; null if none watches over it. */
  readonly onParentGone: ((callback: () => void) => void) | null;
  /** Runs `callback` after a time; the result cancels it. Such a timer alone keeps no process alive. */
  readonly after: (delayMs: number, callback: () => void) => () => void;
  /** Ends the process now. */
  readonly exitNow: (code: number) => void;
}
