/**
 * Who may look: a token of role viewer or operator, as `Authorization: Bearer` or in a cookie that the login sets. Pure.
 * Where no token is asked for (loopback, docs/security.md), the Host of a request must be loopback's: otherwise a page of
 * the web could have its own name resolved to this machine and read what the visitor may read.
 */
import type { IncomingMessage } from 'node:http';
import type { TokenVerdict } from '../identity/token.ts';
import { isLoopback } from '../loopback.ts';

/** What the gate asks the doorkeeper. */
export interface Viewers {
  /** Whether one who looks must show a token. */
  readonly asksForTokens: boolean;
  judgeViewer(token: string): TokenVerdict;
}

/** For one machine: nobody is asked for anything. */
export const NO_VIEWER_TOKENS: Viewers = {
  asksForTokens: false,
  judgeViewer: () => ({ isValid: true, tokenId: null }),
};

export interface ViewGate {
  readonly viewers: Viewers;
  /** The address that is listened at. */
  readonly host: string;
}

/** Why a request is not answered; 401: a token would help. */
export interface Denial {
  readonly status: 401 | 403;
  readonly text: string;
}

const MAX_TOKEN_CHARACTERS = 256;
const COOKIE = 'galore_viewer';

/** The token that a request shows; empty: none. */
export function tokenOf({ headers }: IncomingMessage): string {
  const bearer = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1];
  const name = cookieName(headers.host);
  const cookie = (headers.cookie ?? '')
    .split(';')
    .map((pair) => pair.trim().split('='))
    .find(([key]) => key === name)?.[1];
  const token = bearer ?? cookie ?? '';
  return token.length > MAX_TOKEN_CHARACTERS ? '' : token;
}

/** Decides on a request for something of the run. */
export function denialOf({ viewers, host }: ViewGate, request: IncomingMessage): Denial | null {
  if (!viewers.asksForTokens) {
    const asked = hostName(request.headers.host ?? '');
    if (!isLoopback(host) || isLoopback(asked)) return null;
    return { status: 403, text: `this page is for this machine; it was asked for as ${asked}` };
  }
  const verdict = viewers.judgeViewer(tokenOf(request));
  if (verdict.isValid) return null;
  const text = tokenOf(request) === '' ? 'a viewer token is needed' : verdict.text;
  return { status: 401, text };
}

/** A browser says which page a request is of; only this one may read over /live or send the login. */
export function isOwnOrigin({ headers }: IncomingMessage): boolean {
  const { origin, host } = headers;
  if (origin === undefined) return true;
  try {
    return new URL(origin).host === host;
  } catch {
    return false;
  }
}

/** The value of Set-Cookie that keeps a token until the browser is closed; an empty one ends that. */
export function viewerCookie(token: string, host: string | undefined, isSecure: boolean): string {
  const end = token === '' ? '; Max-Age=0' : '';
  const secure = isSecure ? '; Secure' : '';
  return `${cookieName(host)}=${token}; Path=/; HttpOnly; SameSite=Strict${secure}${end}`;
}

/** Cookies know hosts and no ports: two coordinators of one machine have each their own. */
function cookieName(host: string | undefined): string {
  return `${COOKIE}_${/:(\d+)$/.exec(host ?? '')?.[1] ?? 'default'}`;
}

/** Without its port. */
function hostName(host: string): string {
  return host.replace(/:\d+$/, '');
}
