/**
 * What the process environment says. SHELL, and the only file that reads `process.env`: everything
 * else is given the frozen result.
 */
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';

/** The settings taken from the environment. */
export interface Environment {
  /** Where downloads and tokenised data are kept: GALORE_CACHE_DIR, XDG_CACHE_HOME/galore-swarm or ~/.cache/galore-swarm. */
  readonly cacheDir: string;
  readonly homeDir: string;
  /** False when NO_COLOR is set to anything (https://no-color.org) or TERM is `dumb`. */
  readonly mayColour: boolean;
  /** False when TERM is `dumb`: nothing may be redrawn in place. */
  readonly mayRedraw: boolean;
  /** Join token of GALORE_TOKEN; empty where unset. A secret: never log it. */
  readonly token: string;
  /** GALORE_NATS_TOKEN, GALORE_NATS_USER, GALORE_NATS_PASSWORD, GALORE_NATS_CREDS; empty where unset. Secrets: never log them. */
  readonly nats: {
    readonly token: string;
    readonly user: string;
    readonly password: string;
    readonly credsPath: string;
  };
  /** CUDA_VISIBLE_DEVICES: the GPUs a scheduler has given to this process; null where unset. */
  readonly visibleGpus: string | null;
}

/** Reads the environment. `variables` and `homeDir` are arguments for tests only. */
export function readEnvironment(
  variables: Readonly<Record<string, string | undefined>> = process.env,
  homeDir: string = homedir(),
): Environment {
  const isDumb = variables['TERM'] === 'dumb';
  return Object.freeze({
    cacheDir: cacheDir(variables, homeDir),
    homeDir,
    mayColour: !isDumb && (variables['NO_COLOR'] ?? '') === '',
    mayRedraw: !isDumb,
    token: variables['GALORE_TOKEN'] ?? '',
    nats: Object.freeze({
      token: variables['GALORE_NATS_TOKEN'] ?? '',
      user: variables['GALORE_NATS_USER'] ?? '',
      password: variables['GALORE_NATS_PASSWORD'] ?? '',
      credsPath: variables['GALORE_NATS_CREDS'] ?? '',
    }),
    visibleGpus: variables['CUDA_VISIBLE_DEVICES'] ?? null,
  });
}

function cacheDir(variables: Readonly<Record<string, string | undefined>>, homeDir: string): string {
  const own = variables['GALORE_CACHE_DIR'];
  if (own) return resolve(own);
  const xdg = variables['XDG_CACHE_HOME'];
  // The XDG specification says that a relative path is to be ignored.
  if (xdg && isAbsolute(xdg)) return join(xdg, 'galore-swarm');
  return join(homeDir, '.cache', 'galore-swarm');
}
