/** Runs whose tensors travel in different ways, with real processes. */
import test, { type ExecutionContext } from 'ava';
import { galore, TEST_TEXT, TestRun, tinyConfig, type Metric } from '../helpers/galore.ts';
import type { TrafficPlan } from '../../src/coordinator/traffic-plan.ts';
import type { TrafficReport } from '../../src/coordinator/traffic.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const EMBEDDINGS = ['embed_tokens', 'lm_head'];

function train(t: ExecutionContext, trainers: number, more: Record<string, unknown>): Promise<TestRun> {
  return new TestRun(t, tinyConfig(TEST_TEXT, { model, ...more })).trainHere(trainers);
}

test.serial(
  'one-sided and two-sided layers, power for tied embeddings: two trainers learn what one does',
  async (t) => {
    const more = {
      model: { ...model, tie_word_embeddings: true },
      method: {
        name: 'galore',
        rank: 8,
        update_proj_gap: 5,
        feedback_dtype: 'f32',
        moment_dtype: 'f32',
        param_groups: [
          { match: EMBEDDINGS, policy: 'power', rank: 16, scale: 1 },
          { match: ['mlp'], policy: 'two-sided' },
        ],
      },
      wire: { codec: 'f32' },
      steps: 12,
    };
    const [one, two] = [await train(t, 1, more), await train(t, 2, more)];
    const worst = Math.max(...one.metrics.map(({ loss }, i) => Math.abs(loss - two.metrics[i]!.loss)));
    t.log(`losses within ${worst.toExponential(2)}`);
    t.true(worst <= 1e-4, `losses differ by ${worst}`);
    t.true(two.metrics.at(-1)!.loss < two.metrics[0]!.loss - 0.5);
    const weights = one.weights(12);
    t.false(weights.has('lm_head.weight'));
    // Both as a product [m, r] or [r, n]: the embedding once, and nothing of the layers' full size.
    const vocab = weights.get('model.embed_tokens.weight')!.length / 32;
    const [tall = 0, wide = 0] = one.metrics.map(({ payloadNumbers }) => payloadNumbers);
    t.is(Math.abs(tall - wide), 16 * (vocab - 32));
    t.is(Math.min(tall, wide), 16 * 32 + 4 * 8 * 32 + 3 * 8 * 8 + 3 * 32);
  },
);

test.serial('galore plan is within 3% of the bytes that a run sends, kind by kind', async (t) => {
  const steps = 9;
  const run = new TestRun(
    t,
    tinyConfig(TEST_TEXT, {
      model: { hidden_size: 64, intermediate_size: 176, num_hidden_layers: 2, num_attention_heads: 2 },
      method: {
        name: 'galore',
        rank: 'd/4',
        update_proj_gap: 4,
        param_groups: [{ match: EMBEDDINGS, policy: 'power', rank: 'd/2', scale: 1 }],
      },
      wire: { codec: 'int8' },
      steps,
    }),
  );
  const { code, output } = await galore(t, 'plan', run.configPath, '--trainers', '2', '--json');
  t.is(code, 0, output);
  const plan = JSON.parse(output) as TrafficPlan;
  await run.train(2);

  const lines = run.metrics as readonly (Metric & { readonly traffic: TrafficReport })[];
  const trainers = Object.keys(lines[0]!.traffic.trainers);
  t.is(trainers.length, 2);
  const sum = (direction: 'up' | 'down', kind: keyof TrafficReport['trainers'][string]['up']): number =>
    lines.reduce(
      (total, { traffic }) =>
        total + trainers.reduce((all, id) => all + (traffic.trainers[id]?.[direction][kind] ?? 0), 0),
      0,
    );
  // A line is written before the Commit of its step is sent, which is the least of an update.
  const measured = {
    contribution: sum('up', 'contribution') / (2 * steps),
    update: sum('down', 'update') / (2 * steps),
    refreshUp: sum('up', 'refresh') / (2 * steps),
    refreshDown: sum('down', 'refresh') / (2 * steps),
    data: sum('down', 'data') / (2 * steps),
  };
  const planned = {
    contribution: plan.contribution,
    update: plan.update,
    refreshUp: plan.refresh.up,
    refreshDown: plan.refresh.down,
    data: plan.data,
  };
  for (const [name, bytes] of Object.entries(measured)) {
    const ratio = planned[name as keyof typeof planned] / bytes;
    t.log(`${name}: ${Math.round(bytes)} bytes, planned ${((ratio - 1) * 100).toFixed(2)}% more`);
    t.true(Math.abs(ratio - 1) < 0.03, `${name}: ${ratio} of the measured bytes`);
  }
  // The socket's own counters agree, but for the handshake and what keeps a connection alive.
  const socket = lines.reduce((total, { bytesUp }) => total + bytesUp, 0) / (2 * steps);
  t.true(Math.abs(plan.total.up / socket - 1) < 0.03, `${plan.total.up}, on the socket ${socket}`);
  const policies = lines.map(({ traffic }) => traffic.policies.power?.up ?? 0);
  t.true(policies.every((bytes) => bytes > 0));
});

test.serial(
  'row-sparse: two trainers have the losses of dense, with the rows of the batch alone',
  async (t) => {
    const more = (policy: string) => ({
      method: {
        name: 'galore',
        rank: 8,
        update_proj_gap: 5,
        param_groups: [{ match: ['embed_tokens'], policy }],
      },
      ...{ wire: { codec: 'f32' }, seq_len: 16, batch_size: 4, steps: 8 },
    });
    const [dense, sparse] = [await train(t, 2, more('dense')), await train(t, 2, more('row-sparse'))];
    const worst = Math.max(...dense.metrics.map(({ loss }, i) => Math.abs(loss - sparse.metrics[i]!.loss)));
    t.log(`losses within ${worst.toExponential(2)}`);
    t.true(worst <= 5e-5, `losses differ by ${worst}`);
    const bytesOf = (run: TestRun, policy: 'dense' | 'row-sparse') => {
      const lines = run.metrics as readonly (Metric & { readonly traffic: TrafficReport })[];
      const all = lines.map(({ traffic }) => traffic.policies[policy] ?? { up: 0, down: 0 });
      return {
        up: all.reduce((sum, { up }) => sum + up, 0),
        down: all.reduce((sum, { down }) => sum + down, 0),
      };
    };
    const [whole, rest, rows] = [
      bytesOf(dense, 'dense'),
      bytesOf(sparse, 'dense'),
      bytesOf(sparse, 'row-sparse'),
    ];
    for (const way of ['up', 'down'] as const) {
      const embedding = whole[way] - rest[way];
      t.log(`${way}: ${rows[way]} bytes of rows for ${embedding} of the whole matrix`);
      t.true(rows[way] > 0 && rows[way] < embedding / 5);
    }
  },
);
