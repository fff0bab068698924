/**
 * Why a connection to a coordinator could not be opened: where trying again would not help (certificates, TLS on one
 * side only, a path where no coordinator is), and in words where it may. Pure.
 */
import type { CloseReason } from '../protocol/close-codes.ts';
import { NO_LEADER } from '../protocol/standby.ts';

/** What is wrong and what to do about it. */
export interface ConnectFault {
  readonly reason: Extract<CloseReason, 'BAD_CERTIFICATE' | 'TLS_MISMATCH' | 'NO_COORDINATOR'>;
  readonly text: string;
}

/** An error of `ws` or `node:tls`. */
export interface ConnectError {
  readonly code?: string | undefined;
  readonly message: string;
  /** With ERR_TLS_CERT_ALTNAME_INVALID: `DNS:a.example, IP Address:10.0.0.7`. */
  readonly cert?: { readonly subjectaltname?: string | undefined } | undefined;
}

const NOT_FOUND = 'Unexpected server response: 404';
/** The coordinator wants TLS (its answer to an upgrade without it). */
const UPGRADE_REQUIRED = 'Unexpected server response: 426';
const TOO_MANY_REQUESTS = 'Unexpected server response: 429';
const UNAVAILABLE = 'Unexpected server response: 503';

const UNKNOWN_AUTHORITY = new Set([
  'CERT_CHAIN_TOO_LONG',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

/** The fault behind `error`; null where it may pass, such as a coordinator that is not there. */
export function connectFaultOf(url: string, error: ConnectError): ConnectFault | null {
  const { host, hostname } = new URL(url);
  const { code = '', message } = error;
  const certificate = (text: string): ConnectFault => ({ reason: 'BAD_CERTIFICATE', text });
  if (message.startsWith(NOT_FOUND)) {
    const text = `there is no coordinator at ${url} (404): check the address; it has no path behind host and port`;
    return { reason: 'NO_COORDINATOR', text };
  }
  if (message.startsWith(UPGRADE_REQUIRED)) {
    return {
      reason: 'TLS_MISMATCH',
      text: `the coordinator at ${host} speaks only TLS, and nothing was told to it: use wss://${host}`,
    };
  }
  if (
    code === 'ERR_SSL_WRONG_VERSION_NUMBER' ||
    (code === 'EPROTO' && message.includes('wrong version number'))
  ) {
    return {
      reason: 'TLS_MISMATCH',
      text: `there is no TLS at ${host}: its coordinator is run without; use ws://${host}`,
    };
  }
  if (UNKNOWN_AUTHORITY.has(code)) {
    return certificate(
      `the certificate of ${host} is signed by nobody this machine trusts; if it is the right one, give --ca FILE ` +
        'with the certificate of who signed it (of a self-signed one: itself)',
    );
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return certificate(
      `the certificate is not for ${hostname} but for ${namesIn(error)}: connect by a name it is for, or give the ` +
        'coordinator a certificate for this one',
    );
  }
  if (code === 'CERT_HAS_EXPIRED') {
    return certificate(`the certificate of ${host} has expired: whoever runs the coordinator must renew it`);
  }
  if (code === 'CERT_NOT_YET_VALID') {
    return certificate(`the certificate of ${host} is not valid yet: is the clock of this machine right?`);
  }
  if (code.startsWith('ERR_SSL_') && code.includes('_ALERT_')) {
    return certificate(`${host} refused the TLS connection (${code}): does --cert suit it?`);
  }
  return null;
}

/** What a trainer that will try again says of `error`. */
export function connectErrorText(url: string, { message }: ConnectError): string {
  const { host } = new URL(url);
  if (message.startsWith(TOO_MANY_REQUESTS)) {
    return `${host} takes no more connections from this address for now (429: coordinator.limits)`;
  }
  if (message.startsWith(UNAVAILABLE)) {
    return `${host} takes no more connections for now (503: it is full, or stops)`;
  }
  return message;
}

/** What it says of a coordinator that does not lead the run. */
export function standbyText(url: string, leaderUrl: string): string {
  const leader = leaderUrl === NO_LEADER ? 'nobody leads it at the moment' : `${leaderUrl} does`;
  return `${new URL(url).host} does not lead the run; ${leader}`;
}

function namesIn({ cert }: ConnectError): string {
  return cert?.subjectaltname?.replaceAll(/(DNS|IP Address|URI):/g, '') ?? 'no name at all';
}
