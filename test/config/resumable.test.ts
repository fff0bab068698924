import test from 'ava';
import { checkResumable } from '../../src/config/resumable.ts';
import { ConfigError } from '../../src/errors.ts';
import { MINIMAL, resolve } from './parse.ts';

test('length, processes, checkpoints and evaluations of a resumed run may change', (t) => {
  const changed = resolve(
    MINIMAL,
    'steps=500',
    'dir=/elsewhere',
    'coordinator={port: 1, start_trainers: 3}',
    'trainer.micro_batch=2',
    'checkpoint.every=5',
    'evaluation.every=5',
    'data.cache_dir=/tmp',
  );
  t.notThrows(() => checkResumable(resolve(MINIMAL), changed));
});

test('every other field is refused by name, with its old value and the reason', (t) => {
  const changed = resolve(
    MINIMAL,
    'optimizer.lr=0.5',
    'seed=7',
    'wire.codec=f32',
    'method.rank=8',
    'steps=500',
  );
  const error = t.throws(() => checkResumable(resolve(MINIMAL), changed), { instanceOf: ConfigError });
  t.is(
    error?.message,
    [
      'a resumed run keeps its settings:',
      '  method.rank is 8; it stays nothing: the moments and bases of the checkpoint belong to it',
      '  optimizer.lr is 0.5; it stays 0.01: the moments of the checkpoint belong to it',
      '  wire.codec is f32; it stays int8: the records of the journal are encoded with it',
      '  seed is 7; it stays 0: the order of the data comes from it',
      '  may change: dir, state, steps, data.cache_dir, coordinator, trainer, checkpoint, evaluation, tensorboard; for anything else start a new run',
    ].join('\n'),
  );
  t.is(error?.faults.length, 4);
});
