/**
 * Why a connection was closed, as WebSocket close codes. docs/protocol.md has the same table and a
 * test compares the two.
 */

/** What a close code means and whether the trainer may connect again. */
export interface CloseCodeInfo {
  readonly code: number;
  readonly mayRetry: boolean;
  readonly meaning: string;
}

export const CLOSE_CODES = {
  RUN_FINISHED: { code: 4000, mayRetry: false, meaning: 'the run has ended' },
  PROTOCOL_VERSION: { code: 4001, mayRetry: false, meaning: 'no protocol version in common' },
  MALFORMED_MESSAGE: { code: 4002, mayRetry: false, meaning: 'a message that cannot be decoded' },
  UNEXPECTED_MESSAGE: { code: 4003, mayRetry: false, meaning: 'a message that is not allowed at this point' },
  UNAUTHORIZED: { code: 4004, mayRetry: false, meaning: 'the token is missing or wrong' },
  WRONG_RUN: { code: 4005, mayRetry: false, meaning: 'the coordinator serves another run' },
  SCHEMA_MISMATCH: { code: 4006, mayRetry: false, meaning: 'the model or its slots differ' },
  LIMIT_EXCEEDED: { code: 4007, mayRetry: false, meaning: 'a limit on size or rate was exceeded' },
  TIMEOUT: { code: 4008, mayRetry: true, meaning: 'nothing was heard for too long' },
  SUPERSEDED: { code: 4009, mayRetry: false, meaning: 'a newer connection uses the same trainer id' },
  STATE_DIVERGED: { code: 4010, mayRetry: true, meaning: 'the weights differ; join again without state' },
  COORDINATOR_STOPPING: { code: 4011, mayRetry: true, meaning: 'the coordinator is going away for now' },
  RUN_FULL: { code: 4012, mayRetry: true, meaning: 'the run has as many trainers as it takes' },
  INVALID_CONTRIBUTION: { code: 4013, mayRetry: true, meaning: 'numbers that are not finite or do not fit' },
  INTERNAL_ERROR: { code: 4014, mayRetry: true, meaning: 'the other side had an error of its own' },
  LEAVING: { code: 4015, mayRetry: false, meaning: 'the trainer leaves of its own accord' },
  TOKEN_REVOKED: { code: 4016, mayRetry: false, meaning: 'the token was revoked' },
  TOKEN_EXPIRED: { code: 4017, mayRetry: false, meaning: 'the token has expired' },
  WRONG_ROLE: { code: 4018, mayRetry: false, meaning: 'the token is for another role' },
  BAD_CERTIFICATE: { code: 4019, mayRetry: false, meaning: 'a certificate is missing or not accepted' },
  TLS_MISMATCH: { code: 4020, mayRetry: false, meaning: 'one side speaks TLS and the other does not' },
  NO_COORDINATOR: { code: 4021, mayRetry: false, meaning: 'there is no coordinator at this address' },
} as const satisfies Record<string, CloseCodeInfo>;

/** Name of a close code. */
export type CloseReason = keyof typeof CLOSE_CODES;

/** The name of a close code of ours; null for any other number. */
export function closeReasonOf(code: number): CloseReason | null {
  for (const [reason, info] of Object.entries(CLOSE_CODES)) {
    if (info.code === code) return reason as CloseReason;
  }
  return null;
}
