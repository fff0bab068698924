/** The parametrisations by name: a new one is a file and a line here. */
import { identity } from './identity.ts';
import { lora } from './lora.ts';
import type { Parametrisation, ParametrisationOptions } from './parametrisation.ts';
import { relora } from './relora.ts';

const PARAMETRISATIONS = {
  identity: () => identity,
  lora,
  relora,
} as const satisfies Record<string, (options: ParametrisationOptions) => Parametrisation>;

export type ParametrisationName = keyof typeof PARAMETRISATIONS;

/** The parametrisation of that name. */
export function parametrisationFor(
  name: ParametrisationName,
  options: ParametrisationOptions,
): Parametrisation {
  return PARAMETRISATIONS[name](options);
}
