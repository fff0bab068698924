import test from 'ava';
import { loadEngine } from '../../../src/trainer/engine/load.ts';

const { tf } = await loadEngine({ precision: 'f32', threads: 1 });
const { TensorLedger } = await import('../../../src/trainer/engine/tensor-ledger.ts');
const { fusedAdamw } = await import('../../../src/galore/fused-adamw.ts');

const ledger = new TensorLedger(tf);
const SIZE = 1000;
const BYTES = 4 * SIZE;
/** Scalars that operations take as inputs. */
const SMALL = 64;

function filled(value: number) {
  return tf.fill([SIZE], value);
}

test.serial('bytes rise with a tensor and fall when it goes; the peak has what was there at once', (t) => {
  const before = ledger.bytes;
  ledger.restart();
  const [a, b] = [filled(1), filled(2)];
  t.is(ledger.bytes, before + 2 * BYTES);
  const c = tf.tidy(() => tf.mul(tf.add(a, b), b)); // the sum lives beside a, b and the product
  t.is(ledger.bytes, before + 3 * BYTES);
  tf.dispose([a, b, c]);
  t.is(ledger.bytes, before);
  t.true(ledger.peakBytes - before >= 4 * BYTES && ledger.peakBytes - before < 4 * BYTES + SMALL);
  ledger.restart();
  t.is(ledger.peakBytes, before);
});

test.serial('a reshaped tensor shares the bytes of the first until both are gone', (t) => {
  const before = ledger.bytes;
  const a = filled(1);
  const b = tf.reshape(a, [10, 100]);
  t.is(ledger.bytes, before + BYTES);
  a.dispose();
  t.is(ledger.bytes, before + BYTES);
  b.dispose();
  t.is(ledger.bytes, before);
});

test.serial('Adam in place takes no second copy of weight and moments, one of a weight that is held', (t) => {
  const before = ledger.bytes;
  const options = { betas: [0.9, 0.99], stepSize: 0.1, eps: 1e-8 } as const;
  const [weight, m, v, gradient] = [filled(1), filled(0), filled(0), filled(1)];
  ledger.restart();
  const next = fusedAdamw(weight, gradient, { m, v }, options);
  t.true(ledger.peakBytes < before + 4 * BYTES + SMALL, `${ledger.peakBytes - before}`);
  tf.dispose([weight, m, v]);
  t.is(ledger.bytes, before + 4 * BYTES);
  const clone = tf.clone(next.weight);
  const last = fusedAdamw(next.weight, gradient, { m: next.m, v: next.v }, options);
  tf.dispose([next.weight, next.m, next.v]);
  t.is(ledger.bytes, before + 5 * BYTES);
  t.is(clone.dataSync()[0]!.toFixed(4), '0.9000');
  tf.dispose([clone, gradient, last.weight, last.m, last.v]);
  t.is(ledger.bytes, before);
});

test.serial('what is made from an array counts once an operation has used it', (t) => {
  const before = ledger.bytes;
  const a = tf.tensor1d(new Float32Array(SIZE));
  t.is(ledger.bytes, before);
  const b = tf.neg(a);
  t.is(ledger.bytes, before + 2 * BYTES);
  tf.dispose([a, b]);
  t.is(ledger.bytes, before);
});
