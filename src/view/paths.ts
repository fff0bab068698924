/** Paths of a coordinator's port that its server must know of. Pure. */
import type { IncomingMessage } from 'node:http';

/** Where the WebSocket of the page is; that of trainers is at `/`. */
export const LIVE_PATH = '/live';

/** For those who only ask whether the process lives and takes trainers: they need no certificate and no token. */
export const PROBE_PATHS: ReadonlySet<string> = new Set(['/healthz', '/readyz']);

/** Of a request, without the query. */
export function pathOf({ url }: IncomingMessage): string {
  return (url ?? '/').split('?', 1)[0]!;
}
