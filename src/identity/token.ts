/**
 * Join tokens: `galore_ID_SECRET`, the id 8 hexadecimal digits, the secret 256 random bits. What is kept of one is its
 * SHA-256. A slow hash would gain nothing: it makes guessing dear where secrets are few, and nobody tries 2^256.
 * Pure: dice and clock are arguments. See docs/security.md.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { CloseReason } from '../protocol/close-codes.ts';

/** What a token is good for; no role includes another. */
export const TOKEN_ROLES = ['trainer', 'viewer', 'operator'] as const;
export type TokenRole = (typeof TOKEN_ROLES)[number];

/** Random bytes that `newToken` takes. */
export const TOKEN_RANDOM_BYTES = 4 + 32;

const TOKEN_PATTERN = /^galore_([0-9a-f]{8})_[A-Za-z0-9_-]{43}$/;

/** A token as it is kept. Times are those of the wall clock, as in `2030-01-31T12:00:00.000Z`. */
export interface StoredToken {
  readonly id: string;
  readonly role: TokenRole;
  /** Of the whole token, in hexadecimal. */
  readonly sha256: string;
  readonly created: string;
  /** Null: never. */
  readonly expires: string | null;
  readonly revoked: string | null;
}

/** A token at the only moment at which it is known. */
export interface NewToken {
  readonly text: string;
  readonly stored: StoredToken;
}

/** Whether a token lets its bearer in, or why not. `tokenId` is null where none is asked for. */
export type TokenVerdict =
  | { readonly isValid: true; readonly tokenId: string | null }
  | {
      readonly isValid: false;
      readonly reason: Extract<
        CloseReason,
        'UNAUTHORIZED' | 'TOKEN_REVOKED' | 'TOKEN_EXPIRED' | 'WRONG_ROLE'
      >;
      readonly text: string;
    };

/** A token made of TOKEN_RANDOM_BYTES random bytes. `lifetimeMs` null: it does not expire. */
export function newToken(
  role: TokenRole,
  randomBytes: Uint8Array,
  nowMs: number,
  lifetimeMs: number | null,
): NewToken {
  const bytes = Buffer.from(randomBytes);
  const id = bytes.toString('hex', 0, 4);
  const text = `galore_${id}_${bytes.subarray(4, TOKEN_RANDOM_BYTES).toString('base64url')}`;
  const expires = lifetimeMs === null ? null : new Date(nowMs + lifetimeMs).toISOString();
  const created = new Date(nowMs).toISOString();
  return {
    text,
    stored: { id, role, sha256: sha256(text).toString('hex'), created, expires, revoked: null },
  };
}

/**
 * Decides on a token that a peer has shown. Who does not know the secret learns one thing, that it is no good; whether
 * it was revoked, has expired or is for another role is told to its owner only.
 */
export function judgeToken(
  text: string,
  tokens: ReadonlyMap<string, StoredToken>,
  role: TokenRole,
  nowMs: number,
): TokenVerdict {
  if (text === '') return refusal('UNAUTHORIZED', NO_TOKEN);
  const stored = tokens.get(TOKEN_PATTERN.exec(text)?.[1] ?? '');
  // An unknown id takes the same way as a wrong secret.
  const isRight = timingSafeEqual(sha256(text), Buffer.from(stored?.sha256 ?? NO_HASH, 'hex'));
  if (stored === undefined || !isRight) return refusal('UNAUTHORIZED', 'the token is not one of this run');
  return judgeStored(stored, role, nowMs);
}

/** Whether a token is good at the moment; one that was revoked stays so when it has expired, too. */
export function tokenState(
  { expires, revoked }: Pick<StoredToken, 'expires' | 'revoked'>,
  nowMs: number,
): 'good' | 'revoked' | 'expired' {
  if (revoked !== null) return 'revoked';
  return expires !== null && nowMs >= Date.parse(expires) ? 'expired' : 'good';
}

/** Decides on a token whose secret was right. */
export function judgeStored(stored: StoredToken, role: TokenRole, nowMs: number): TokenVerdict {
  const { id } = stored;
  const state = tokenState(stored, nowMs);
  if (state === 'revoked') return refusal('TOKEN_REVOKED', `token ${id} was revoked`);
  if (state === 'expired') return refusal('TOKEN_EXPIRED', `token ${id} has expired`);
  if (stored.role !== role) {
    return refusal(
      'WRONG_ROLE',
      `token ${id} is that of a${stored.role === 'operator' ? 'n' : ''} ${stored.role}, not of a ${role}`,
    );
  }
  return { isValid: true, tokenId: id };
}

/** What is said to who shows no token where one is asked for. */
const NO_TOKEN = 'this run is joined with a token: give one with --token-file or GALORE_TOKEN';
/** No text is known to have this SHA-256. */
const NO_HASH = '0'.repeat(64);

function refusal(reason: (TokenVerdict & { isValid: false })['reason'], text: string): TokenVerdict {
  return { isValid: false, reason, text };
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
