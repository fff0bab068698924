/** The join token of a trainer: from a file, the environment or the command line. SHELL. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { ConfigError, DataError } from '../errors.ts';
import { readSmallFile } from '../files/small-file.ts';
import type { Logger } from '../log.ts';
import { MAX_NAME_LENGTH } from '../protocol/limits.ts';
import type { CliContext } from './context.ts';

/** Where it may be given. */
export interface TokenFlags {
  readonly token?: string;
  readonly tokenFile?: string;
}

const MAX_TOKEN_FILE_BYTES = 4096;
/** Readable by the group or by everyone. */
const OTHERS_READ = 0o044;

/**
 * The token, empty where none is given; a flag goes before GALORE_TOKEN. No error shows any part of it.
 * @throws ConfigError, DataError or OperatingError
 */
export async function joinToken(context: CliContext, flags: TokenFlags, logger: Logger): Promise<string> {
  const { token, tokenFile } = flags;
  if (token !== undefined && tokenFile !== undefined) {
    throw new ConfigError('--token and --token-file were both given; one is enough');
  }
  if (tokenFile !== undefined) return await readToken(resolve(context.workingDir, tokenFile), logger);
  if (token !== undefined) return checked(token, '--token');
  return checked(context.environment.token, 'GALORE_TOKEN');
}

async function readToken(path: string, logger: Logger): Promise<string> {
  const text = Buffer.from(await readSmallFile(path, MAX_TOKEN_FILE_BYTES))
    .toString('utf8')
    .trim();
  if (text === '') throw new DataError(path, `${path} is empty; it should hold a join token`);
  if (process.platform !== 'win32' && (statSync(path).mode & OTHERS_READ) !== 0) {
    logger.warn('token.readable', { path }, `other users can read ${path}: chmod 600 keeps the token to you`);
  }
  return checked(text, path);
}

function checked(text: string, source: string): string {
  const token = text.trim();
  if (token.length <= MAX_NAME_LENGTH && !/[\s\p{Cc}]/u.test(token)) return token;
  throw new ConfigError(
    `${source} holds no join token: one is a single word of at most ${MAX_NAME_LENGTH} characters`,
  );
}
