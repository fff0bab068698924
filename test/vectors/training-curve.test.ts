/**
 * 200 steps against the losses recorded with torch, transformers and galore-torch, through a real
 * coordinator and one real trainer. GALORE_VECTORS may name another folder laid out like this one.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ROOT, TestRun, temporaryFolder } from '../helpers/galore.ts';

const VECTORS = process.env['GALORE_VECTORS'] ?? join(ROOT, 'test', 'vectors');
const FILE = join(VECTORS, 'training-curve.json');

interface Tolerance {
  readonly first_n_steps: readonly number[];
  readonly loss_atol: readonly number[];
  readonly val_final_atol: number;
}

interface Case {
  readonly name: string;
  readonly optimizer: string;
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly rank?: number;
  readonly scale?: number;
  readonly proj_type?: string;
  readonly update_proj_gap?: number;
  readonly sign_invariant?: boolean;
  readonly losses: readonly number[];
  readonly val_loss_final: number;
}

interface Curve {
  readonly dir: string;
  readonly data: { readonly tokens: string; readonly train_bytes: number; readonly seq: number; readonly batch: number };
  readonly tolerance: Readonly<Record<string, Tolerance>>;
  readonly cases: readonly Case[];
}

if (existsSync(FILE)) {
  const curve = JSON.parse(readFileSync(FILE, 'utf8')) as Curve;
  for (const vector of curve.cases) {
    test.serial(`training-curve: ${vector.name} follows the recorded losses and, at their end, has the recorded held-out loss`, async (t) => {
      t.timeout(180_000);
      const run = new TestRun(t, configOf(t, curve, vector));
      await run.train(1);
      checkLosses(t, run, curve, vector);
    });
  }
} else {
  test('training-curve: no such vectors in this folder', (t) => t.pass());
}

/** Of a curve that depends on signs the tolerance grows past use after the first refreshes. */
function stepsOf({ losses, sign_invariant }: Case): number {
  return sign_invariant === false ? 100 : losses.length;
}

function configOf(t: ExecutionContext, curve: Curve, vector: Case): Record<string, unknown> {
  const folder = temporaryFolder(t);
  const bytes = readFileSync(join(VECTORS, curve.data.tokens));
  writeFileSync(join(folder, 'train.txt'), bytes.subarray(0, curve.data.train_bytes));
  writeFileSync(join(folder, 'validation.txt'), bytes.subarray(curve.data.train_bytes));
  const model = join(folder, 'model');
  mkdirSync(model);
  copyFileSync(join(VECTORS, curve.dir, 'config.json'), join(model, 'config.json'));
  copyFileSync(join(VECTORS, curve.dir, 'init.safetensors'), join(model, 'model.safetensors'));
  const isGalore = vector.optimizer.startsWith('galore_torch');
  const { rank, scale, proj_type, update_proj_gap } = vector;
  return {
    name: vector.name,
    model: { path: model },
    data: {
      path: join(folder, 'train.txt'),
      format: 'text',
      order: 'sequential',
      validation_path: join(folder, 'validation.txt'),
    },
    tokenizer: { type: 'byte' },
    seq_len: curve.data.seq,
    batch_size: curve.data.batch,
    method: isGalore
      ? { name: 'galore', preset: 'parity', rank, scale, proj_type, update_proj_gap }
      : { name: 'full' },
    optimizer: { lr: vector.lr, betas: vector.betas, eps: vector.eps, weight_decay: vector.weight_decay },
    wire: { codec: 'f32' },
    coordinator: { port: 0 },
    trainer: { micro_batch: curve.data.batch, threads: 1 },
    evaluation: { every: 0, sequences: 0 },
    checkpoint: { every: 0 },
    steps: stepsOf(vector),
  };
}

function checkLosses(t: ExecutionContext, run: TestRun, curve: Curve, vector: Case): void {
  // Recorded bases cannot be injected into a real run: such a case is held to the tolerance for runs
  // that factorise for themselves.
  const key = vector.sign_invariant === false ? 'galore_own_svd' : vector.name;
  const tolerance = curve.tolerance[key];
  if (tolerance === undefined) return t.fail(`no tolerance named ${key}`);
  const losses = run.metrics.map(({ loss }) => loss);
  t.is(losses.length, stepsOf(vector));
  tolerance.first_n_steps.forEach((steps, i) => {
    if (steps > losses.length) return;
    const worst = Math.max(
      ...vector.losses.slice(0, steps).map((loss, step) => Math.abs(loss - losses[step]!)),
    );
    t.true(worst <= tolerance.loss_atol[i]!, `first ${steps} steps: off by ${worst}, allowed ${tolerance.loss_atol[i]}`);
    t.log(`first ${steps} steps: off by ${worst.toExponential(2)} of ${tolerance.loss_atol[i]}`);
  });
  if (losses.length < vector.losses.length) return;
  const last = run.evaluations.at(-1);
  t.is(last?.step, vector.losses.length);
  const off = Math.abs((last?.loss ?? NaN) - vector.val_loss_final);
  t.true(off <= tolerance.val_final_atol, `held-out loss: off by ${off}, allowed ${tolerance.val_final_atol}`);
  t.log(`held-out loss: off by ${off.toExponential(2)} of ${tolerance.val_final_atol}`);
}
