/** A short run of every fuzzer, the same each time; `npm run fuzz` goes on for as long as one likes. */
import test from 'ava';
import { createDice } from './dice.ts';
import { fuzz, tryInput } from './fuzz.ts';
import { mutateBytes } from './mutate.ts';
import type { FuzzTarget } from './target.ts';
import { TARGETS } from './targets.ts';
import { ProtocolError } from '../../src/errors.ts';

/** About a quarter of a second each. */
const INPUTS: Readonly<Record<string, number>> = {
  envelope: 6_000,
  codec: 6_000,
  journal: 300,
  safetensors: 6_000,
  config: 60,
};

for (const [name, open] of Object.entries(TARGETS)) {
  test.serial(`whatever ${name} is given, it accepts or refuses in its own words`, async (t) => {
    const target = open();
    t.teardown(() => target.close?.());
    const { outcomes, failure } = await fuzz(target, { seed: 1, goesOn: (inputs) => inputs < INPUTS[name]! });
    t.is(failure, null, failure?.reason);
    t.true(outcomes.size >= 2, 'some are accepted and some refused'); // else it says nothing
    t.true((outcomes.get('accepted') ?? 0) > 0);
  });
}

test('the fuzzer notices another error, a slow input and one that takes much memory', async (t) => {
  const given = (decode: () => void): FuzzTarget => ({
    name: 'x',
    generate: () => new Uint8Array(1),
    decode,
    refusals: [ProtocolError],
    allowanceBytes: 1e6,
  });
  const faultOf = async (decode: () => void): Promise<string | null> =>
    (await tryInput(given(decode), new Uint8Array(1))).fault;
  const kept: unknown[] = [];
  t.regex((await faultOf(() => (null as unknown as string).trim()))!, /^it threw TypeError/);
  t.regex((await faultOf(() => kept.push(new Uint8Array(4e6))))!, /^it took \d+ bytes, allowed: 1000064/);
  t.is(await faultOf(() => {}), null);
  t.is(
    await faultOf(() => {
      throw new ProtocolError(4002, 'no');
    }),
    null,
  );
});

test('the same seed makes the same inputs', (t) => {
  const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);
  const mutants = (seed: number): string[] =>
    Array.from({ length: 50 }, (_, i) =>
      Buffer.from(mutateBytes(bytes, createDice(seed, i))).toString('hex'),
    );
  t.deepEqual(mutants(1), mutants(1));
  t.notDeepEqual(mutants(1), mutants(2));
  t.true(new Set(mutants(1)).size > 40);
});
