/** Runs whose tensors travel in different ways, with real processes. */
import test, { type ExecutionContext } from 'ava';
import { TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const EMBEDDINGS = ['embed_tokens', 'lm_head'];

function train(t: ExecutionContext, trainers: number, more: Record<string, unknown>): Promise<TestRun> {
  return new TestRun(t, tinyConfig(TEST_TEXT, { model, ...more })).train(trainers);
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
