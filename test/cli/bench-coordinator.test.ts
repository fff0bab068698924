import test from 'ava';
import { benchLoad } from '../../src/cli/bench-load.ts';
import { CODECS } from '../../src/config/schema.ts';
import { contributionBytes } from '../../src/protocol/slot-sizes.ts';
import { world } from './fakes.ts';

test('a model is made whose contribution has the bytes that were asked for, within 2 %', (t) => {
  for (const codec of CODECS) {
    for (const wanted of [50_000, 100_000, 1_000_000, 15_000_000]) {
      const load = benchLoad({ payloadBytes: wanted, codec, startTrainers: 2 });
      t.true(Math.abs(load.payloadBytes / wanted - 1) <= 0.02, `${codec} ${wanted}: ${load.payloadBytes}`);
      t.is(contributionBytes(load.sizes), load.payloadBytes);
    }
  }
});

test('bench coordinator refuses a payload that no model has', async (t) => {
  const { run, err } = world(t);
  t.is(await run('bench', 'coordinator', '--payload-bytes', '1000'), 2);
  t.regex(err.text, /--payload-bytes .*whole number from 50000 to 1000000000/);
});
