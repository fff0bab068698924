import test from 'ava';
import { describeError, exitCodeOf } from '../../src/cli/exit-codes.ts';
import {
  CheckpointError,
  ConfigError,
  DataError,
  EngineError,
  NotFiniteError,
  OperatingError,
  ProtocolError,
  TensorShapeError,
} from '../../src/errors.ts';

test('what the user gave wrong is 2, what keeps a run from going on is 3, the rest is 1', (t) => {
  t.is(exitCodeOf(new ConfigError('x')), 2);
  t.is(exitCodeOf(new DataError('f', 'x')), 2);
  t.is(exitCodeOf(new CheckpointError('f', 'x')), 3);
  t.is(exitCodeOf(new ProtocolError(4002, 'x')), 3);
  t.is(exitCodeOf(new EngineError('x')), 3);
  t.is(exitCodeOf(new NotFiniteError('x')), 3);
  t.is(exitCodeOf(new OperatingError('x')), 3);
  t.is(exitCodeOf(new TensorShapeError('x')), 1);
  t.is(exitCodeOf(new Error('x')), 1);
  t.is(exitCodeOf('x'), 1);
});

test('an expected error is its message and nothing else', (t) => {
  t.is(describeError(new ConfigError('run.yaml is empty'), false), 'error: run.yaml is empty\n');
});

test('an unexpected error says so and how to learn more', (t) => {
  const text = describeError(new TypeError('x is not a function'), false);
  t.regex(text, /^error: unexpected: x is not a function\n.*--debug/);
  t.false(text.includes('    at '));
});

test('--debug shows stack, code and cause', (t) => {
  const error = new OperatingError('no space', { cause: new Error('ENOSPC') });
  const text = describeError(error, true);
  t.regex(text, /^error: OperatingError: no space\n {4}at /);
  t.regex(text, /\(ERR_GALORE_OPERATING\)\ncaused by: Error: ENOSPC\n/);
});
