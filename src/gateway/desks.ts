/** The coordinator's desks, as a gateway has them for the trainers behind it. */
import { randomInt } from 'node:crypto';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../clock.ts';
import { COORDINATOR_DEFAULTS } from '../config/schema.ts';
import { CheckpointDesk } from '../coordinator/checkpoint-desk.ts';
import type { Dispatch } from '../coordinator/dispatch.ts';
import { SpillFile } from '../coordinator/spill-file.ts';
import { StepDesk } from '../coordinator/step-desk.ts';
import { TrainerDesk, type TrainerSurroundings } from '../coordinator/trainer-desk.ts';
import { createChangeLogger } from '../log.ts';
import type { WelcomeMessage } from '../protocol/messages.ts';
import type { WelcomedRun } from '../trainer/welcomed-run.ts';
import type { Mirror } from './mirror.ts';

export interface Desks {
  readonly trainers: TrainerDesk;
  readonly steps: StepDesk;
  readonly checkpoints: CheckpointDesk;
  readonly spillFile: SpillFile;
}

/** What the coordinator has said of the run. */
export interface Welcomed {
  readonly run: WelcomedRun;
  readonly message: WelcomeMessage;
}

/** What the desks need of their surroundings. */
export type DeskSurroundings = Pick<
  TrainerSurroundings,
  'evaluations' | 'doorkeeper' | 'committedStep' | 'adopt' | 'onFailure' | 'logger'
> & { readonly dispatch: Dispatch };

export function openDesks({ run, message }: Welcomed, mirror: Mirror, around: DeskSurroundings): Desks {
  const { runId, config, shape } = run;
  const { modelJson, schemaHash, site = null } = message;
  const { journal, checkpointsDir, newest, verified } = mirror;
  const { dispatch, logger } = around;
  const nowMs = (): number => systemClock.nowMs();
  const about = { runId, shape, journal };
  const spillFile = new SpillFile(mirror.path, createChangeLogger(logger, 'staging.full', 'warn'));
  const steps = new StepDesk(config, shape, randomInt(2 ** 32), null, spillFile);
  steps.setRanks(mirror.ranks);
  const checkpoint = { ...config.checkpoint, keep: 1 };
  const checkpoints = new CheckpointDesk(
    {
      ...{ ...about, config: { ...config, checkpoint }, dataset: null, baseSha256: '' },
      ...{ texts: { configJson: modelJson }, authority: null },
      ...{ checkpointsDir, newestCheckpoint: newest, verified },
    },
    { dispatch, onReport: () => {}, logger, nowMs },
  );
  // The rest of it is the coordinator's, so that trainers are told what it would tell them.
  const coordinator = { ...config.coordinator, limits: COORDINATOR_DEFAULTS.limits, auth: {} };
  const trainers = new TrainerDesk(
    { ...about, config: { ...config, coordinator }, schemaHash, modelJson, site },
    {
      ...{ ...around, steps, checkpoints, nowMs },
      gatewayFault: () => ({ reason: 'WRONG_RUN', text: 'a gateway takes trainers, not gateways' }),
      pause: (durationMs) => (durationMs === 0 ? setImmediate() : sleep(durationMs)),
    },
  );
  return { trainers, steps, checkpoints, spillFile };
}
