/** What a Welcome says of the run, understood and checked before the first byte of its state comes. Pure. */
import { createHash } from 'node:crypto';
import type { RunConfig } from '../config/schema.ts';
import { describeSlots, withRanks } from '../galore/slot.ts';
import { LOCAL_PREFIX, stateFault } from '../galore/state-table.ts';
import { parseModelConfig, type ModelConfig } from '../model/model-config.ts';
import { isSameDigest } from '../protocol/digest.ts';
import type { WelcomeMessage } from '../protocol/messages.ts';
import { ranksIn } from '../protocol/slot-sizes.ts';
import { buildRunShape, type RunShape } from '../run-shape.ts';

/** The run that a trainer is part of. */
export interface WelcomedRun {
  readonly runId: string;
  readonly config: RunConfig;
  readonly model: ModelConfig;
  readonly shape: RunShape;
  /** Of the snapshot that follows; null: none does. */
  readonly snapshot: WelcomeMessage['snapshot'];
}

/** The run, or why this trainer can be no part of it. */
export function understand(welcome: WelcomeMessage): WelcomedRun | { readonly fault: string } {
  const run = parsed(welcome);
  if ('fault' in run) return run;
  const hash = createHash('sha256').update(describeSlots(run.shape.slots)).digest();
  if (!isSameDigest(new Uint8Array(hash), welcome.schemaHash)) {
    return { fault: 'this version of galore-swarm makes other slots of the model than the coordinator' };
  }
  const fault = snapshotFault(run);
  return fault === null ? run : { fault };
}

function parsed({
  runId,
  configJson,
  modelJson,
  snapshot,
}: WelcomeMessage): WelcomedRun | { readonly fault: string } {
  try {
    const config = JSON.parse(configJson) as RunConfig;
    const model = parseModelConfig(JSON.parse(modelJson), 'the model of the run');
    return { runId, config, model, shape: buildRunShape(config, model), snapshot };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { fault: `the run cannot be understood here: ${reason}` };
  }
}

function snapshotFault({ shape, snapshot }: WelcomedRun): string | null {
  if (snapshot === null) return null;
  const shared = snapshot.tensors.filter(({ name }) => !name.startsWith(LOCAL_PREFIX));
  return stateFault(withRanks(shape.slots, ranksIn(snapshot.tensors, shape.sizes)), shared, snapshot.step);
}
