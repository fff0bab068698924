import test from 'ava';
import { EngineError } from '../../../src/errors.ts';
import { loadEngine } from '../../../src/trainer/engine/load.ts';

test('settings that come after the library was loaded are refused instead of ignored', async (t) => {
  await import('@tensorflow/tfjs-node-gpu');
  await t.throwsAsync(loadEngine({ precision: 'bf16', threads: 1 }), {
    instanceOf: EngineError,
    message: /^tfjs was imported before loadEngine was called/,
  });
});
