/**
 * Whether a Hello is let in. Pure: the answer is either the state the trainer still needs or a close
 * code with a reason that names what was wanted and what was offered.
 */
import type { CloseReason } from '../protocol/close-codes.ts';
import { isSameDigest } from '../protocol/digest.ts';
import type { CodecName, HelloMessage } from '../protocol/messages.ts';
import { negotiateVersion, PROTOCOL_VERSIONS } from '../protocol/version.ts';
import type { TokenVerdict } from '../identity/token.ts';

/** What the coordinator knows about its run. */
export interface AdmissionContext {
  readonly runId: string;
  readonly runName: string;
  readonly schemaHash: Uint8Array;
  /** Whether the token of a Hello lets a trainer in. */
  readonly judge: (token: string) => TokenVerdict;
  /** In which tensors of the run travel. */
  readonly codecs: readonly CodecName[];
  /** Of the token that the connection came with that has this trainer's id now; undefined: none has. */
  readonly presentTokenId: string | null | undefined;
  /** Whether one more with this token may join now, and then it counts. */
  readonly mayJoin: (tokenId: string | null) => boolean;
  readonly trainerCount: number;
  readonly maxTrainers: number;
  /** Digest of a record (0: of the start) if the journal has all that came after it; null otherwise. */
  readonly digestOf: (sequence: number) => Uint8Array | null;
  /** Why one that says that it is a gateway is not taken; null: it is. */
  readonly gatewayFault: () => { readonly reason: CloseReason; readonly text: string } | null;
}

/** Let in, or why not. */
export type Admission =
  | {
      readonly isAdmitted: true;
      readonly version: number;
      /** Of the token that it has shown; null where none is asked for. */
      readonly tokenId: string | null;
      readonly heldSequence: number | null;
    }
  | { readonly isAdmitted: false; readonly reason: CloseReason; readonly text: string };

/** Decides on a Hello. `heldSequence` is the record the trainer's own state is good for; null: none. */
export function admit(hello: HelloMessage, context: AdmissionContext): Admission {
  const refuse = (reason: CloseReason, text: string): Admission => ({ isAdmitted: false, reason, text });
  const version = negotiateVersion(PROTOCOL_VERSIONS, hello.protocolVersions);
  if (version === null) {
    const ours = PROTOCOL_VERSIONS.join(', ');
    return refuse(
      'PROTOCOL_VERSION',
      `this coordinator speaks protocol version ${ours}, the trainer ${hello.protocolVersions.join(', ') || 'none'}`,
    );
  }
  // Before anything that tells of the run.
  const verdict = context.judge(hello.token);
  if (!verdict.isValid) return refuse(verdict.reason, verdict.text);
  // The newer connection of a trainer wins, but nobody takes the place of another with a token of his own.
  if (context.presentTokenId !== undefined && context.presentTokenId !== verdict.tokenId) {
    return refuse(
      'UNAUTHORIZED',
      `${hello.trainerId} is here with another token: a trainer needs an id of its own (--id)`,
    );
  }
  if (hello.runName !== '' && hello.runName !== context.runName) {
    return refuse('WRONG_RUN', `this coordinator serves run "${context.runName}", not "${hello.runName}"`);
  }
  if (hello.schemaHash.length > 0 && !isSameDigest(hello.schemaHash, context.schemaHash)) {
    return refuse(
      'SCHEMA_MISMATCH',
      `the trainer's model is not that of run "${context.runName}": schema ` +
        `${hex(hello.schemaHash)} instead of ${hex(context.schemaHash)}`,
    );
  }
  const missing = context.codecs.filter((codec) => !hello.codecs.includes(codec));
  if (missing.length > 0) {
    return refuse(
      'SCHEMA_MISMATCH',
      `run "${context.runName}" sends numbers as ${missing.join(' and ')}, which the trainer ` +
        `(${hello.software || 'of unknown software'}) does not know: it needs a newer version`,
    );
  }
  const fault = hello.isGateway === true ? context.gatewayFault() : null;
  if (fault !== null) return refuse(fault.reason, fault.text);
  if (context.trainerCount >= context.maxTrainers) {
    return refuse('RUN_FULL', `the run has ${context.trainerCount} trainers and takes no more`);
  }
  if (!context.mayJoin(verdict.tokenId)) {
    const text = 'too many have joined with this token just now (coordinator.limits.joins_per_second)';
    return refuse('RUN_FULL', text);
  }
  return { isAdmitted: true, version, tokenId: verdict.tokenId, heldSequence: heldSequence(hello, context) };
}

function heldSequence(hello: HelloMessage, context: AdmissionContext): number | null {
  if (hello.runId !== context.runId) return null;
  const digest = context.digestOf(hello.sequence);
  return digest !== null && isSameDigest(digest, hello.digest) ? hello.sequence : null;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(0, 4)).toString('hex');
}
