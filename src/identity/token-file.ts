/**
 * The file in which the hashes of join tokens are kept: `tokens.json` in the run directory, or where
 * `coordinator.auth.tokens` says. Replaced as a whole, mode 0600, by `galore token`; read by the coordinator. SHELL.
 */
import { mkdir, open, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import type { RunConfig } from '../config/schema.ts';
import { DataError, OperatingError } from '../errors.ts';
import { writeFileAtomic } from '../files/atomic.ts';
import { readSmallTextSync } from '../files/small-file.ts';
import { explainSystemError, systemErrorCode } from '../files/system-error.ts';
import { TOKEN_ROLES, type StoredToken } from './token.ts';

/** Its name in a run directory. */
export const TOKENS_FILE = 'tokens.json';
const FILE_MODE = 0o600;
const MAX_TOKENS = 4096;
const MAX_FILE_BYTES = 2 * 1024 * 1024;
/** How long another `galore token` on the same file may take. */
const LOCK_WAIT_MS = 2_000;
const LOCK_RETRY_MS = 20;

const time = z.iso.datetime();
const fileSchema = z.object({
  formatVersion: z.literal(1),
  tokens: z
    .array(
      z.object({
        id: z.string().regex(/^[0-9a-f]{8}$/),
        role: z.enum(TOKEN_ROLES),
        sha256: z.string().regex(/^[0-9a-f]{64}$/),
        created: time,
        expires: time.nullable(),
        revoked: time.nullable(),
      }),
    )
    .max(MAX_TOKENS),
});

/** Where the tokens of a run are. */
export function tokensPathOf(config: {
  readonly dir: string;
  readonly coordinator: Pick<RunConfig['coordinator'], 'auth'>;
}): string {
  return config.coordinator.auth.tokens ?? join(config.dir, TOKENS_FILE);
}

/**
 * The tokens in the file, in the order of their making; null where there is no such file.
 * @throws DataError if it is damaged, OperatingError if it cannot be read
 */
export function readTokenFile(path: string): readonly StoredToken[] | null {
  const text = readText(path);
  if (text === null) return null;
  const damaged = (why: string): DataError =>
    new DataError(path, `${path} is not a file of join tokens: ${why}`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw damaged('it is not JSON');
  }
  const parsed = fileSchema.safeParse(json);
  if (parsed.success) return parsed.data.tokens;
  const [issue] = parsed.error.issues;
  throw damaged(`${issue?.path.join('.')}: ${issue?.message}`);
}

/**
 * Replaces the tokens in the file by what `change` makes of them; makes the file, and its folder, where there is none.
 * Two at the same time wait for each other.
 * @throws what readTokenFile and `change` throw; OperatingError if it cannot be written
 */
export async function changeTokenFile(
  path: string,
  change: (tokens: readonly StoredToken[]) => readonly StoredToken[],
): Promise<void> {
  const unlock = await lock(path);
  try {
    const tokens = change(readTokenFile(path) ?? []);
    if (tokens.length > MAX_TOKENS) {
      throw new OperatingError(
        `${path} holds ${MAX_TOKENS} tokens, which is the most; begin another file, or remove it`,
      );
    }
    await writeFileAtomic(path, `${JSON.stringify({ formatVersion: 1, tokens }, null, 2)}\n`, FILE_MODE);
  } finally {
    await unlock();
  }
}

function readText(path: string): string | null {
  try {
    return readSmallTextSync(path, MAX_FILE_BYTES);
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw explainSystemError(error, `read ${path}`);
  }
}

/** Resolves to what gives the lock back. */
async function lock(path: string): Promise<() => Promise<void>> {
  const lockPath = `${path}.lock`;
  const deadlineMs = performance.now() + LOCK_WAIT_MS;
  for (;;) {
    try {
      await mkdir(dirname(path), { recursive: true });
      await (await open(lockPath, 'wx', FILE_MODE)).close();
      return () => rm(lockPath, { force: true });
    } catch (error) {
      if (systemErrorCode(error) !== 'EEXIST') throw explainSystemError(error, `write ${path}`);
    }
    if (performance.now() > deadlineMs) {
      throw new OperatingError(
        `another galore token is changing ${path}; if none is, one was cut off: remove ${lockPath}`,
      );
    }
    await sleep(LOCK_RETRY_MS);
  }
}
