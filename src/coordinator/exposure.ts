/** Whether a coordinator may listen where it is told to. Pure. See docs/security.md. */
import { ConfigError } from '../errors.ts';
import { isLoopback } from '../loopback.ts';

/** What stands between an address and a coordinator. */
export interface Exposure {
  readonly host: string;
  readonly hasTokens: boolean;
  readonly hasTls: boolean;
  readonly isInsecure: boolean;
  /** Where tokens would be looked for, as `galore token create` takes it. */
  readonly tokensPath: string;
}

/**
 * Refuses an address that other machines reach while anyone could join or listen there. Resolves to a warning where
 * `insecure` allows it, or null.
 * @throws ConfigError
 */
export function checkExposure(exposure: Exposure): string | null {
  const { host, hasTokens, hasTls, isInsecure, tokensPath } = exposure;
  if (isLoopback(host) || (hasTokens && hasTls)) return null;
  if (isInsecure) {
    const lacks = [...(hasTokens ? [] : ['without join tokens']), ...(hasTls ? [] : ['without encryption'])];
    return `this address can be reached from other machines, ${lacks.join(' and ')}: keep it inside a trusted network`;
  }
  const needs = [
    ...(hasTokens ? [] : [`join tokens (galore token create ${tokensPath} --role trainer)`]),
    ...(hasTls ? [] : ['a certificate (coordinator.tls: {cert: FILE, key: FILE})']),
  ].join(' and ');
  const allowed = `127.0.0.1; other machines reach any other address, which needs ${needs}, or --insecure in a network that is trusted`;
  const fault = { field: 'coordinator.host', value: host, allowed };
  throw new ConfigError(
    `coordinator.host is ${host}, which other machines can reach: that needs ${needs}.\n` +
      'In a network where everyone is trusted, --insecure (coordinator.insecure: true) listens without.',
    [fault],
  );
}
