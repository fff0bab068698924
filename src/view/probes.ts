/** What probes are told, the same by coordinators, standbys and gateways. Pure. */

/** An answer over HTTP. */
export interface PlainAnswer {
  readonly status: number;
  readonly text: string;
}

/** `/healthz`: the process lives. `/readyz`: it takes trainers, or `notReady` says why not. Null: another path. */
export function probeAnswer(path: string, notReady: string | null): PlainAnswer | null {
  if (path === '/healthz') return { status: 200, text: 'ok' };
  if (path !== '/readyz') return null;
  return notReady === null ? { status: 200, text: 'ready' } : { status: 503, text: notReady };
}
