import test from 'ava';
import { admit, type AdmissionContext } from '../../src/coordinator/admission.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import type { HelloMessage } from '../../src/protocol/messages.ts';
import { HELLO } from '../support/wire.ts';

const SCHEMA = Uint8Array.from({ length: 32 }, (_, i) => i);
const DIGEST = Uint8Array.from({ length: 32 }, (_, i) => 255 - i);

const CONTEXT: AdmissionContext = {
  runId: 'run-1',
  runName: 'demo',
  judge: () => ({ isValid: true, tokenId: null }),
  schemaHash: SCHEMA,
  codecs: ['f32', 'int4'],
  presentTokenId: undefined,
  mayJoin: () => true,
  trainerCount: 0,
  maxTrainers: 2,
  gatewayFault: () => null,
  digestOf: (sequence) => (sequence === 7 ? DIGEST : null),
};

function answer(hello: Partial<HelloMessage>, context: Partial<AdmissionContext> = {}) {
  return admit({ ...HELLO, runName: '', ...hello }, { ...CONTEXT, ...context });
}

test('a Hello that does not fit is refused with the reason and both sides of it', (t) => {
  const cases: [Partial<HelloMessage>, Partial<AdmissionContext>, string, RegExp][] = [
    [{ protocolVersions: [99] }, {}, 'PROTOCOL_VERSION', /speaks protocol version 5, the trainer 99/],
    [{ protocolVersions: [] }, {}, 'PROTOCOL_VERSION', /the trainer none/],
    [{ runName: 'other' }, {}, 'WRONG_RUN', /"demo", not "other"/],
    [{ schemaHash: DIGEST }, {}, 'SCHEMA_MISMATCH', /schema fffefdfc instead of 00010203/],
    [{ codecs: ['f32', 'int8'] }, {}, 'SCHEMA_MISMATCH', /sends numbers as int4, which the trainer \(test\)/],
    [{ codecs: [] }, {}, 'SCHEMA_MISMATCH', /sends numbers as f32 and int4/],
    [{}, { trainerCount: 2 }, 'RUN_FULL', /has 2 trainers/],
    [{}, { mayJoin: () => false }, 'RUN_FULL', /too many have joined with this token just now/],
  ];
  for (const [hello, context, reason, text] of cases) {
    const refused = answer(hello, context);
    t.is(refused.isAdmitted ? '' : refused.reason, reason);
    t.regex(refused.isAdmitted ? '' : refused.text, text);
  }
});

test('a newer connection takes the place of an older one with the same token, and of no other', (t) => {
  const judge = () => ({ isValid: true, tokenId: 'mine' }) as const;
  t.true(answer({}, { judge, presentTokenId: 'mine' }).isAdmitted);
  t.true(answer({}, { presentTokenId: null }).isAdmitted);
  for (const presentTokenId of ['yours', null]) {
    const refused = answer({ trainerId: 'anna' }, { judge, presentTokenId });
    t.like(refused, {
      reason: 'UNAUTHORIZED',
      text: 'anna is here with another token: a trainer needs an id of its own (--id)',
    });
  }
});

test('a trainer of several versions is spoken to in the newest that both speak', (t) => {
  t.like(answer({ protocolVersions: [3, 5, 99] }), { isAdmitted: true, version: 5 });
});

test('a trainer that names nothing in particular is let in without state', (t) => {
  t.deepEqual(answer({}), { isAdmitted: true, version: 5, tokenId: null, heldSequence: null });
  t.deepEqual(answer({ runName: 'demo', schemaHash: SCHEMA }), answer({}));
});

test('a token is judged before anything of the run is told', (t) => {
  const text = 'the token is not one of this run';
  const judge = (token: string) =>
    token === 'right'
      ? ({ isValid: true, tokenId: '00000001' } as const)
      : ({ isValid: false, reason: 'UNAUTHORIZED', text } as const);
  const full = { judge, trainerCount: 2 };
  for (const hello of [{}, { runName: 'other' }, { schemaHash: DIGEST }, { codecs: [] }]) {
    t.deepEqual(answer(hello, full), { isAdmitted: false, reason: 'UNAUTHORIZED', text });
  }
  t.like(answer({ token: 'right' }, full), { reason: 'RUN_FULL' });
  t.like(answer({ token: 'right' }, { judge }), { isAdmitted: true, tokenId: '00000001' });
});

test('the state of a trainer is good only if run, record and digest are ours', (t) => {
  const held = { runId: 'run-1', sequence: 7, digest: DIGEST };
  const heldOf = (fields: Partial<HelloMessage>): unknown => ({
    heldSequence: 0,
    ...answer({ ...held, ...fields }),
  });
  t.like(heldOf({}), { heldSequence: 7 });
  t.like(heldOf({ runId: 'run-2' }), { heldSequence: null });
  t.like(heldOf({ sequence: 8 }), { heldSequence: null });
  t.like(heldOf({ digest: SCHEMA }), { heldSequence: null });
  t.like(heldOf({ digest: new Uint8Array(0) }), { heldSequence: null });
});

test('the state of step 0 is good only while the journal reaches back to it', (t) => {
  const start = { runId: 'run-1', sequence: 0, digest: FIRST_DIGEST };
  t.like(answer(start, { digestOf: () => FIRST_DIGEST }), { heldSequence: 0 });
  t.like(answer(start, { digestOf: () => null }), { heldSequence: null });
});
