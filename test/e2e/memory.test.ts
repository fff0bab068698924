/** A long run needs no more memory than a short one. */
import test from 'ava';
import { TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

test.serial('240 steps leave tensors and resident memory where they were after step 80', async (t) => {
  t.timeout(180_000);
  const run = new TestRun(
    t,
    tinyConfig(TEST_TEXT, {
      // Large enough that what a step leaves behind would show, small enough for 30 ms a step.
      model: { hidden_size: 128, intermediate_size: 352, num_hidden_layers: 1, num_attention_heads: 2 },
      batch_size: 4,
      trainer: { micro_batch: 1, threads: 1 },
      method: { name: 'galore', rank: 32, update_proj_gap: 20 },
      coordinator: { port: 0, heartbeat_interval_ms: 100, heartbeat_timeout_ms: 30_000 },
      checkpoint: { every: 0 },
      steps: 240,
    }),
  );
  await run.train(2);
  const early = run.metrics[79]!;
  const late = run.metrics[238]!;
  t.deepEqual(Object.keys(late.sizes), ['trainer-1', 'trainer-2']);
  for (const [trainerId, { tensorCount, residentBytes }] of Object.entries(late.sizes)) {
    const before = early.sizes[trainerId]!;
    t.is(tensorCount, before.tensorCount, `${trainerId} tensors`);
    t.log(
      `${trainerId}: ${tensorCount} tensors, resident x ${(residentBytes / before.residentBytes).toFixed(3)}`,
    );
    t.true(
      residentBytes <= 1.04 * before.residentBytes,
      `${trainerId}: ${before.residentBytes} to ${residentBytes} bytes`,
    );
  }
  t.log(
    `coordinator: resident x ${(late.coordinatorResidentBytes / early.coordinatorResidentBytes).toFixed(3)}`,
  );
  t.true(late.coordinatorResidentBytes <= 1.04 * early.coordinatorResidentBytes);
});
