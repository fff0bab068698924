/** Run directories for the commands that use a model. */
import { join } from 'node:path';
import { parseRunConfig, resolvedYaml } from '../../src/config/load.ts';
import { beginCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { RUN_YAML, world, writeRunDirectory, type World } from './fakes.ts';

async function writeCheckpoint(runDir: string, step: number): Promise<string> {
  const tensors = [{ name: 'weights/a', shape: [2] }];
  const writer = await beginCheckpoint(join(runDir, 'checkpoints'), step, tensors, { configJson: '{}' });
  await writer.write(0, 0, new Uint8Array(8));
  const { path } = await writer.finish({
    runId: 'r',
    name: 'tiny',
    step,
    sequence: step,
    digest: '0'.repeat(64),
    refreshedStep: 0,
    cursor: { next: 0, returned: [] },
    seed: 0,
    schedulePosition: step,
    members: [],
    created: '2030-01-01T00:00:00.000Z',
  });
  return path;
}

/** A world with the run directory `kept`, checkpoints at steps 2 and 10. */
export async function withRun(
  t: Parameters<typeof world>[0],
  options: Parameters<typeof world>[1] = {},
): Promise<World> {
  const w = world(t, options);
  const config = parseRunConfig(RUN_YAML, 'run.yaml', { workingDir: w.dir, homeDir: '/home/ann' });
  writeRunDirectory(join(w.dir, 'kept'), resolvedYaml(config));
  await writeCheckpoint(join(w.dir, 'kept'), 2);
  await writeCheckpoint(join(w.dir, 'kept'), 10);
  return w;
}
