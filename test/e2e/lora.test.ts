/** LoRA and ReLoRA with real processes: adapters are trained, and go in and out as peft has them. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { galoreHere } from '../helpers/here.ts';
import { readSafetensors } from '../helpers/safetensors.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const more = { model, optimizer: { lr: 0.01 }, coordinator: { port: 0 }, wire: { codec: 'int8' } };
const relora = { name: 'relora', rank: 4, merge_every: 4, update_proj_gap: 3 };

async function succeeds(t: ExecutionContext, ...args: readonly string[]): Promise<string> {
  const { code, output } = await galoreHere(...args);
  t.is(code, 0, output);
  return output;
}

test.serial(
  'LoRA from a model folder: two trainers agree, the base stays, the loss falls; its adapter goes out and in again',
  async (t) => {
    const base = await new TestRun(
      t,
      tinyConfig(TEST_TEXT, { ...more, method: { name: 'full' }, steps: 3 }),
    ).trainHere(1);
    const method = {
      name: 'lora',
      rank: 4,
      target_modules: ['attn', 'mlp'],
      modules_to_save: ['lm_head'],
      update_proj_gap: 3,
    };
    const config = (fields: object) => tinyConfig(TEST_TEXT, { ...more, method, ...fields });
    const start = { path: base.checkpoint(3) };
    const run = await new TestRun(t, config({ model: start, steps: 8 })).trainHere(2);

    const losses = run.metrics.map(({ loss }) => loss);
    t.true(losses.at(-1)! < losses[0]! - 0.3, losses.join(' '));
    t.deepEqual(
      run.metrics.flatMap(({ stateHash }) =>
        stateHash === undefined ? [] : [[stateHash.step, stateHash.trainers]],
      ),
      [
        [3, 2],
        [6, 2],
      ],
    );
    const [first, last] = [run.weights(0), run.weights(8)];
    for (const [name, values] of base.weights(3)) t.deepEqual(first.get(name), values, name);
    const changed = [...first]
      .filter(([name, values]) => !equal(values, last.get(name)!))
      .map(([name]) => name);
    t.is(changed.length, 2 * 7 + 1);
    t.true(
      changed.every((name) => /\.lora_[AB]\.weight$|^lm_head\.weight$/.test(name)),
      changed.join(' '),
    );
    const adapters = [...last].filter(([name]) => changed.includes(name));
    const count = adapters.reduce((sum, [, values]) => sum + values.length, 0);
    t.true(
      run.metrics.every(({ payloadNumbers }) => payloadNumbers === count),
      'what is frozen does not travel',
    );

    const [adapter, whole] = [join(run.folder, 'adapter'), join(run.folder, 'whole')];
    await succeeds(t, 'export', run.dir, adapter);
    t.like(JSON.parse(readFileSync(join(adapter, 'adapter_config.json'), 'utf8')), {
      ...{ peft_type: 'LORA', r: 4, lora_alpha: 8, bias: 'none', base_model_name_or_path: start.path },
      target_modules: ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'],
      modules_to_save: ['lm_head'],
    });
    const exported = readSafetensors(join(adapter, 'adapter_model.safetensors'));
    t.is(exported.size, adapters.length);
    for (const [name, values] of adapters) {
      t.true(equal(exported.get(`base_model.model.${name}`)!.values, values), name);
    }
    await succeeds(t, 'export', run.dir, whole, '--merge');
    const lossOf = async (...args: readonly string[]): Promise<number> => {
      const options = [
        '--data',
        TEST_TEXT,
        '--tokenizer',
        'byte',
        '--seq-len',
        '32',
        '--sequences',
        '8',
        '--json',
      ];
      return (JSON.parse(await succeeds(t, 'eval', ...args, ...options)) as { loss: number }).loss;
    };
    const loss = await lossOf(run.dir);
    t.is(await lossOf(whole), loss);
    t.is(await lossOf(start.path, '--adapter', adapter), loss);
    t.true(loss < (await lossOf(start.path)) - 0.3);

    const on = await new TestRun(t, config({ model: { ...start, adapter }, steps: 1 })).trainHere(1);
    for (const [name, values] of last) t.true(equal(on.weights(0).get(name)!, values), name);
    const other = new TestRun(
      t,
      config({ model: { ...start, adapter }, method: { ...method, rank: 3 }, steps: 1 }),
    );
    const refused = await galoreHere(...other.trainArgs(1));
    t.is(refused.code, 2);
    t.regex(refused.output, /method\.rank is 3; it must be 4, as the adapter in .* has it/);
  },
);

for (const [title, fields] of [
  ['ReLoRA', {}],
  ['ReLoRA with local steps', { local_steps: { count: 2 } }],
] as const) {
  test.serial(
    `${title}: 10 steps straight equal 6, Ctrl-C and resume, with merges before and after`,
    async (t) => {
      const config = tinyConfig(TEST_TEXT, { ...more, ...fields, method: relora, steps: 10 });
      const straight = await new TestRun(t, config).trainHere(2);
      const stopped = new TestRun(t, config);
      const command = new Galore(t, stopped.trainArgs(2));
      await command.printed(/step 6\/10/);
      command.child.kill('SIGINT');
      t.is(await command.exited, 0, command.output);
      const { step } = await stopped.inspect();
      t.true(step >= 6 && step < 10, `stopped at step ${step}`);
      const output = await stopped.resume('here');
      t.notRegex(output, /begins with zeros/);
      const kept = 'local_steps' in fields ? 'feedback/trainer-1.safetensors' : 'optimizer.safetensors';
      for (const file of ['model.safetensors', kept]) {
        const [one, other] = [straight, stopped].map((run) => readFileSync(join(run.checkpoint(10), file)));
        t.true(one!.equals(other!), file);
      }
      t.deepEqual(
        stopped.metrics.map(({ loss }) => loss),
        straight.metrics.map(({ loss }) => loss),
      );

      const [first, last] = [straight.weights(0), straight.weights(10)];
      const name = 'model.layers.0.mlp.up_proj';
      t.notDeepEqual(
        last.get(`${name}.weight`),
        first.get(`${name}.weight`),
        'the base has taken adapters in',
      );
      const replay = await succeeds(t, 'replay', straight.dir, '--json');
      t.like(JSON.parse(replay), { from: 0, to: 10, equal: true });
      const refused = await galoreHere('export', straight.dir, join(straight.folder, 'out'));
      t.is(refused.code, 2);
      t.regex(refused.output, /no adapter of the model it began with: export it with --merge/);
    },
  );
}

test.serial('adapters for other models and of other kinds are refused by name', async (t) => {
  const run = await new TestRun(
    t,
    tinyConfig(TEST_TEXT, { ...more, method: { name: 'lora' }, steps: 1 }),
  ).trainHere(1);
  const adapter = join(run.folder, 'adapter');
  await succeeds(t, 'export', run.dir, adapter);
  const faultOf = async (change: (folder: string) => void, path = base.checkpoint(0)): Promise<string> => {
    const folder = join(run.folder, `changed-${count++}`);
    cpSync(adapter, folder, { recursive: true });
    change(folder);
    const { code, output } = await galoreHere(
      'eval',
      path,
      '--adapter',
      folder,
      '--data',
      TEST_TEXT,
      '--tokenizer',
      'byte',
    );
    t.not(code, 0);
    return output;
  };
  let count = 0;
  const withField = (fields: object) => (folder: string) => {
    const path = join(folder, 'adapter_config.json');
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...fields }));
  };
  const base = await new TestRun(
    t,
    tinyConfig(TEST_TEXT, { ...more, method: { name: 'full' }, steps: 1 }),
  ).trainHere(1);
  t.regex(await faultOf(withField({ use_dora: true })), /use_dora is true; only false is supported/);
  t.regex(await faultOf(withField({ bias: 'all' })), /bias is "all"; only "none" is supported/);
  t.regex(await faultOf(withField({ peft_type: 'LOHA' })), /peft_type is "LOHA"; only "LORA" is supported/);
  t.regex(
    await faultOf(withField({ r: 4 })),
    /lora_A\.weight is \[8, 32\]; for this model and rank 4 it must be \[4, 32\]/,
  );
  t.regex(
    await faultOf(withField({ alpha_pattern: { q_proj: 2 } })),
    /alpha_pattern is .*; only one rank and one lora_alpha/,
  );
  const narrow = { ...model, hidden_size: 16 };
  const small = await new TestRun(
    t,
    tinyConfig(TEST_TEXT, { ...more, model: narrow, method: { name: 'full' }, steps: 1 }),
  ).trainHere(1);
  t.regex(
    await faultOf(() => {}, small.checkpoint(0)),
    /q_proj\.lora_A\.weight is \[8, 32\]; for this model and rank 8 it must be \[8, 16\]/,
  );
  const copy = join(run.folder, 'elsewhere', 'copy');
  mkdirSync(join(run.folder, 'elsewhere'));
  cpSync(run.checkpoint(1), copy, { recursive: true });
  const { output } = await galoreHere('eval', copy, '--data', TEST_TEXT, '--tokenizer', 'byte');
  t.regex(output, /it is a checkpoint of a run with adapters, which is read where the run is/);
});

function equal(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}
