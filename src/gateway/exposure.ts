/** Whether a gateway may listen where it is told to: as a coordinator, by its own options. Pure. */
import { ConfigError } from '../errors.ts';
import { isLoopback } from '../loopback.ts';

/** @throws ConfigError for an address that others reach, without tokens or TLS, unless that was asked for */
export function checkGatewayExposure(exposure: {
  readonly host: string;
  readonly hasTokens: boolean;
  readonly hasTls: boolean;
  readonly isInsecure: boolean;
}): void {
  const { host, hasTokens, hasTls, isInsecure } = exposure;
  if (isInsecure || isLoopback(host) || (hasTokens && hasTls)) return;
  const needs = [
    ...(hasTokens
      ? []
      : ['join tokens (galore token create FILE.json --role trainer, then --tokens FILE.json)']),
    ...(hasTls ? [] : ['a certificate (--listen-cert FILE --listen-key FILE)']),
  ].join(' and ');
  const fault = { field: '--listen', value: host, allowed: `127.0.0.1, or any other address with ${needs}` };
  throw new ConfigError(
    `--listen ${host} can be reached from other machines: that needs ${needs}.\n` +
      'In a network where everyone is trusted, --insecure listens without.',
    [fault],
  );
}
