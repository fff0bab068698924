/** LoRA and ReLoRA with real processes: adapters are trained, the base is not. */
import test from 'ava';
import { TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const more = { optimizer: { lr: 0.02 }, coordinator: { port: 0 }, steps: 8 };

test.serial(
  'LoRA trains adapters on two trainers: weights agree, the base stays, the loss falls',
  async (t) => {
    const method = { name: 'lora', rank: 4, target_modules: ['attn', 'mlp'], update_proj_gap: 4 };
    const run = await new TestRun(t, tinyConfig(TEST_TEXT, { ...more, method })).trainHere(2);
    const losses = run.metrics.map(({ loss }) => loss);
    t.log(losses);
    t.true(losses.at(-1)! < losses[0]! - 0.1, losses.join(' '));
    t.is(run.metrics.find(({ stateHash }) => stateHash?.step === 4)?.stateHash?.trainers, 2);
    const [first, last] = [run.weights(0), run.weights(8)];
    for (const [name, values] of first) {
      if (name.includes('.lora_')) t.notDeepEqual(last.get(name), values, name);
      else t.deepEqual(last.get(name), values, name);
    }
  },
);

test.serial('ReLoRA merges', async (t) => {
  const method = { name: 'relora', rank: 4, merge_every: 3, restart_warmup_steps: 1, update_proj_gap: 4 };
  const run = await new TestRun(t, tinyConfig(TEST_TEXT, { ...more, method })).trainHere(2);
  const losses = run.metrics.map(({ loss }) => loss);
  t.log(losses);
});

test.serial('local', async (t) => {
  const method = { name: 'relora', rank: 4, merge_every: 3, restart_warmup_steps: 1, update_proj_gap: 4 };
  const run = await new TestRun(
    t,
    tinyConfig(TEST_TEXT, { ...more, method, local_steps: { count: 3 } }),
  ).trainHere(2);
  const losses = run.metrics.map(({ loss }) => loss);
  t.log(losses);
});
