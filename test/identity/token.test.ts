import { createHash } from 'node:crypto';
import test from 'ava';
import {
  judgeToken,
  newToken,
  TOKEN_RANDOM_BYTES,
  type StoredToken,
  type TokenVerdict,
} from '../../src/identity/token.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';

const NOW = Date.parse('2030-01-31T12:00:00.000Z');
const HOUR = 3_600_000;
const RANDOM = Uint8Array.from({ length: TOKEN_RANDOM_BYTES }, (_, i) => 7 * i);

const GOOD = newToken('trainer', RANDOM, NOW, null);

function judge(text: string, changes: Partial<StoredToken> = {}, nowMs = NOW): TokenVerdict {
  const stored = { ...GOOD.stored, ...changes };
  return judgeToken(text, new Map([[stored.id, stored]]), 'trainer', nowMs);
}

test('a token is prefix, id and secret; what is kept is the SHA-256 of the whole, and no part of the secret', (t) => {
  t.is(GOOD.text, `galore_00070e15_${Buffer.from(RANDOM.subarray(4)).toString('base64url')}`);
  t.deepEqual(GOOD.stored, {
    id: '00070e15',
    role: 'trainer',
    sha256: createHash('sha256').update(GOOD.text).digest('hex'),
    created: '2030-01-31T12:00:00.000Z',
    expires: null,
    revoked: null,
  });
  t.is(newToken('viewer', RANDOM, NOW, 2 * HOUR).stored.expires, '2030-01-31T14:00:00.000Z');
});

test('the right token is let in until the moment at which it expires', (t) => {
  const expires = '2030-01-31T13:00:00.000Z';
  t.deepEqual(judge(GOOD.text), { isValid: true, tokenId: '00070e15' });
  t.true(judge(GOOD.text, { expires }, NOW + HOUR - 1).isValid);
  t.like(judge(GOOD.text, { expires }, NOW + HOUR), { isValid: false, reason: 'TOKEN_EXPIRED' });
});

test('who does not know the secret is told the same, whatever is wrong with the token', (t) => {
  const bad = [
    GOOD.text.slice(0, -1),
    `${GOOD.text}A`,
    GOOD.text.replace('_00070e15_', '_00070e16_'), // an unknown id
    `${GOOD.text.slice(0, 20)}AAAA${GOOD.text.slice(24)}`, // a known one
    ` ${GOOD.text}`,
    'galore_00070e15_',
    'secret',
    '__proto__',
  ];
  const states: Partial<StoredToken>[] = [
    {},
    { revoked: '2030-01-01T00:00:00.000Z' },
    { expires: '2030-01-01T00:00:00.000Z' },
    { role: 'viewer' },
  ];
  for (const text of bad) {
    for (const state of states) {
      const verdict = judge(text, state);
      t.deepEqual(
        verdict,
        { isValid: false, reason: 'UNAUTHORIZED', text: 'the token is not one of this run' },
        text,
      );
    }
  }
  t.like(judge(''), { isValid: false, reason: 'UNAUTHORIZED' });
});

test('who knows the secret is told whether it was revoked, has expired or is for another role', (t) => {
  const revoked = '2030-01-30T00:00:00.000Z';
  const cases: [Partial<StoredToken>, string, string][] = [
    [{ revoked, expires: revoked, role: 'viewer' }, 'TOKEN_REVOKED', 'token 00070e15 was revoked'],
    [{ expires: revoked, role: 'viewer' }, 'TOKEN_EXPIRED', 'token 00070e15 has expired'],
    [{ role: 'viewer' }, 'WRONG_ROLE', 'token 00070e15 is that of a viewer, not of a trainer'],
    [{ role: 'operator' }, 'WRONG_ROLE', 'token 00070e15 is that of an operator, not of a trainer'],
  ];
  const codes = new Set<number>();
  for (const [state, reason, text] of cases) {
    const verdict = judge(GOOD.text, state);
    t.deepEqual(verdict, { isValid: false, reason, text } as TokenVerdict);
    if (!verdict.isValid) codes.add(CLOSE_CODES[verdict.reason].code);
  }
  t.is(codes.size, 3);
});
