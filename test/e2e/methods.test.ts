/** Methods whose state or payload is of another kind than GaLore's, from end to end. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { restoreWeight } from '../../src/galore/int8-weight.ts';
import { TEST_TEXT, TestRun, relativeDifference, tinyConfig } from '../helpers/galore.ts';
import { readSafetensors } from '../helpers/safetensors.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

test.serial(
  'bytes of 8-bit states and weights: 8 steps straight equal 5 steps, a stop and a resume',
  async (t) => {
    const method = { name: 'q-galore', rank: 8, update_proj_gap: 4 };
    const config = tinyConfig(TEST_TEXT, { model, method, wire: { codec: 'int8' }, steps: 8 });
    const straight = await new TestRun(t, config).trainHere(1);
    const stopped = await new TestRun(t, config).trainHere(1, '--stop-at', '5');
    await stopped.resume();
    const files = [straight, stopped].map((run) => `${run.checkpoint(8)}/optimizer.safetensors`);
    t.is((await stopped.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
    const [a, b] = files.map((file) => readFileSync(file));
    t.true(a!.equals(b!), 'the optimizer states are the same file');
    const name = 'model.layers.0.mlp.up_proj.weight';
    const state = readSafetensors(files[0]!);
    const part = (kind: string): Float32Array => state.get(`${kind}/${name}`)!.values;
    const codes = new Uint8Array(part('w_codes').buffer);
    const restored = restoreWeight({ codes, scales: part('w_scales'), zeros: part('w_zeros') });
    t.deepEqual(straight.weights(8).get(name), restored, 'other tools read the numbers of the codes');
  },
);

test.serial('two bases, f32: two trainers do what one does, and send cores', async (t) => {
  const method = { name: 'two-sided', rank: 4, update_proj_gap: 4 };
  // SGD: after a refresh the core is diagonal but for rounding, which Adam would blow up to a whole step.
  const optimizer = { name: 'sgd', lr: 0.5 };
  const config = tinyConfig(TEST_TEXT, { model, method, optimizer, steps: 8 });
  const one = await new TestRun(t, config).trainHere(1);
  const two = await new TestRun(t, config).trainHere(2);
  const weights = relativeDifference(two.weights(8), one.weights(8));
  t.log(`weights within ${weights.toExponential(2)}`);
  t.true(weights <= 1e-4, `weights differ by ${weights}`);
  t.true(one.metrics.at(-1)!.loss < one.metrics[0]!.loss - 0.5, 'it learns');
});

test.serial(
  'two bases of the first step, f32: three trainers have the losses and weights of one',
  async (t) => {
    const method = { name: 'two-sided', rank: 8, update_proj_gap: 1000 };
    const optimizer = { name: 'sgd', lr: 0.5 }; // for the reason above: the first core is that of a refresh
    const config = tinyConfig(TEST_TEXT, { model, method, optimizer, steps: 12 });
    const one = await new TestRun(t, config).trainHere(1);
    const three = await new TestRun(t, config).trainHere(3);
    t.true(three.metrics.every(({ trainers }) => trainers === 3));
    const losses = Math.max(...one.metrics.map(({ loss }, i) => Math.abs(loss - three.metrics[i]!.loss)));
    const weights = relativeDifference(three.weights(12), one.weights(12));
    t.log(`losses within ${losses.toExponential(2)}, weights within ${weights.toExponential(2)}`);
    t.true(losses <= 5e-5, `losses differ by ${losses}`);
    t.true(weights <= 1e-5, `weights differ by ${weights}`);
  },
);
