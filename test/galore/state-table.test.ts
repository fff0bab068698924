import test from 'ava';
import { stateFault, stateTensors } from '../../src/galore/state-table.ts';
import { tinyRun } from '../coordinator/tiny-run.ts';

const { slots } = tinyRun('method.name=fira').shape;
const WHOLE = stateTensors(slots).map(({ name, dtype, totalBytes }) => ({ name, codec: dtype, totalBytes }));
const WEIGHTS = WHOLE.filter(({ name }) => name.startsWith('weights/'));

test('a state is whole, or weights alone before the first step', (t) => {
  t.is(stateFault(slots, WHOLE, 3), null);
  t.is(stateFault(slots, WEIGHTS, 0), null);
  t.regex(stateFault(slots, WEIGHTS, 1) ?? '', /the snapshot has no m\/model\.embed_tokens\.weight/);
  t.regex(stateFault(slots, WEIGHTS.slice(1), 0) ?? '', /has no weights\/model\.embed_tokens\.weight/);
  for (const { name } of WHOLE) {
    const others = WHOLE.filter((tensor) => tensor.name !== name);
    t.is(stateFault(slots, others, 3), `the snapshot has no ${name}`);
  }
});

test('a tensor that the run has not, or has otherwise, is named', (t) => {
  const [first] = WHOLE as [(typeof WHOLE)[number]];
  const wrong = (change: object): string | null =>
    stateFault(slots, [{ ...first, ...change }, ...WHOLE.slice(1)], 3);
  t.regex(wrong({ name: 'error/x' }) ?? '', /has error\/x, which this run has not/);
  t.regex(wrong({ codec: 'u8' }) ?? '', /is \d+ bytes of u8, not \d+ of f32/);
  t.regex(wrong({ totalBytes: 4 }) ?? '', /is 4 bytes of f32, not \d+ of f32/);
});
