/** `galore token`: makes, lists and revokes the tokens that trainers join a run with. */
import { randomBytes } from 'node:crypto';
import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { extname, join, resolve } from 'node:path';
import { Argument, InvalidArgumentError, Option, type Command } from 'commander';
import { loadRunConfig } from '../config/load.ts';
import { ConfigError } from '../errors.ts';
import { systemErrorCode, explainSystemError } from '../files/system-error.ts';
import { changeTokenFile, readTokenFile, TOKENS_FILE, tokensPathOf } from '../identity/token-file.ts';
import {
  newToken,
  TOKEN_RANDOM_BYTES,
  TOKEN_ROLES,
  tokenState,
  type StoredToken,
  type TokenRole,
} from '../identity/token.ts';
import type { CliContext } from './context.ts';
import { table } from './format.ts';
import { debugOption } from './options.ts';
import { prepareNewRun, RUN_FILE } from './run-file.ts';
import { shellWord, shownPath } from './words.ts';

interface CreateFlags {
  readonly role: TokenRole;
  readonly expires?: number;
  readonly out?: string;
  readonly json?: true;
}

const PLACE =
  'Where tokens are kept: a run directory (tokens.json in it, made if it is not there), a run file (run.yaml: where the run\n' +
  'will look for them), or a file whose name ends in .json (coordinator.auth.tokens).';

const OWNER_ONLY = 0o600;

/** Adds the commands. */
export function registerTokenCommand(program: Command, context: CliContext): void {
  const token = program
    .command('token')
    .summary('make, list and revoke the tokens that trainers join with')
    .description(
      'Tokens decide who may join a run. Only their hashes are kept, so a token is shown once, when it is made.\n' +
        `${PLACE}\nA coordinator that runs notices every change within a second.`,
    )
    .addHelpText(
      'after',
      `
Examples:
  galore token create run.yaml --role trainer --out garage.token
  galore token create runs/sotu --role trainer --expires 30d
  galore token list runs/sotu
  galore token revoke runs/sotu 3f9a0c21`,
    );
  token
    .command('create')
    .addArgument(place())
    .summary('make a token and show it once')
    .description(`Makes a token, prints it on standard output and keeps its hash.\n${PLACE}`)
    .addOption(
      new Option('--role <role>', 'what it is good for; no role includes another')
        .choices(TOKEN_ROLES)
        .makeOptionMandatory(),
    )
    .option('--expires <time>', 'how long it is good, such as 12h or 30d; default: for ever', duration)
    .option('--out <file>', 'write the token into a new file that only you can read, and do not print it')
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText('after', CREATE_EXAMPLES)
    .action((where: string, flags: CreateFlags) => create(context, where, flags));
  token
    .command('list')
    .addArgument(place())
    .summary('show ids, roles and dates')
    .description(`Shows the tokens there are: ids, roles and dates, never a secret.\n${PLACE}`)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText('after', '\nExamples:\n  galore token list runs/sotu')
    .action((where: string, flags: { json?: true }) => list(context, where, flags.json === true));
  token
    .command('revoke')
    .addArgument(place())
    .argument('<id>', 'the 8 letters and digits behind galore_')
    .summary('make a token useless for good')
    .description(
      'Revokes a token: who has joined with it is disconnected within a second, and nobody joins with it again.\n' +
        PLACE,
    )
    .addOption(debugOption())
    .addHelpText('after', '\nExamples:\n  galore token revoke runs/sotu 3f9a0c21')
    .action((where: string, id: string) => revoke(context, where, id));
}

const CREATE_EXAMPLES = `
Examples:
  galore token create run.yaml --role trainer --out garage.token
  galore token create runs/sotu --role trainer --expires 30d --json`;

async function create(context: CliContext, where: string, flags: CreateFlags): Promise<void> {
  const path = tokensPath(context, where);
  const nowMs = Date.now();
  const made = newToken(flags.role, randomBytes(TOKEN_RANDOM_BYTES), nowMs, flags.expires ?? null);
  const { id, role, expires } = made.stored;
  // Before it counts: a token that nobody has is no use.
  if (flags.out !== undefined) await writeSecret(resolve(context.workingDir, flags.out), made.text);
  await changeTokenFile(path, (tokens) => {
    if (tokens.some((token) => token.id === id)) throw new ConfigError(`token id ${id} is taken; try again`);
    return [...tokens, made.stored];
  });
  if (flags.json) {
    const token = flags.out === undefined ? { token: made.text } : {};
    context.stdout.write(`${JSON.stringify({ id, role, expires, ...token })}\n`);
    return;
  }
  const until = expires === null ? 'until it is revoked' : `until ${expires}`;
  const shown = shownPath(context.workingDir, path);
  const secret = flags.out === undefined ? 'shown this once' : `in ${flags.out}`;
  context.stderr.write(`token ${id} for a ${role}, ${until}; ${secret}, its hash kept in ${shown}\n`);
  if (flags.out === undefined) context.stdout.write(`${made.text}\n`);
}

function list(context: CliContext, where: string, isJson: boolean): void {
  const path = tokensPath(context, where);
  const nowMs = Date.now();
  const tokens = found(path).map(({ id, role, created, expires, revoked }) => {
    return { id, role, state: tokenState({ expires, revoked }, nowMs), created, expires, revoked };
  });
  if (isJson) context.stdout.write(`${JSON.stringify({ path, tokens })}\n`);
  else if (tokens.length === 0) context.stdout.write('no tokens\n');
  else {
    const rows = tokens.map((token) => [
      ...[token.id, token.role, token.state, token.created, token.expires ?? '-'],
    ]);
    const lines = table([['id', 'role', 'state', 'made', 'expires'], ...rows]);
    context.stdout.write(`${lines.join('\n')}\n`);
  }
}

async function revoke(context: CliContext, where: string, id: string): Promise<void> {
  const path = tokensPath(context, where);
  found(path);
  const revoked = new Date().toISOString();
  let wasRevoked = false;
  await changeTokenFile(path, (tokens) => {
    const token = tokens.find((each) => each.id === id);
    if (token === undefined) {
      // What was given may be a whole token: it is not repeated.
      const command = `${context.commandName} token list ${shellWord(where)}`;
      throw new ConfigError(`no token has this id; an id is 8 letters and digits: ${command}`);
    }
    wasRevoked = token.revoked !== null;
    return tokens.map((each) => (each === token && !wasRevoked ? { ...each, revoked } : each));
  });
  context.stdout.write(wasRevoked ? `token ${id} was revoked before\n` : `token ${id} is revoked\n`);
}

function found(path: string): readonly StoredToken[] {
  const tokens = readTokenFile(path);
  if (tokens === null) throw new ConfigError(`${path} does not exist; galore token create makes it`);
  return tokens;
}

/** @throws ConfigError where the file is there, OperatingError */
async function writeSecret(path: string, text: string): Promise<void> {
  try {
    const file = await open(path, 'wx', OWNER_ONLY);
    try {
      await file.writeFile(`${text}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if (systemErrorCode(error) === 'EEXIST') {
      throw new ConfigError(`${path} is there already; a token gets a file of its own`, []);
    }
    throw explainSystemError(error, `write ${path}`);
  }
}

function place(): Argument {
  return new Argument('<where>', 'run directory, run.yaml, or a file of tokens (.json)');
}

/** The file of tokens that `where` means. @throws ConfigError */
function tokensPath(context: CliContext, where: string): string {
  const path = resolve(context.workingDir, where);
  const options = { workingDir: context.workingDir, homeDir: context.environment.homeDir };
  if (['.yaml', '.yml'].includes(extname(path))) return pathOfNewRun(context, where);
  if (extname(path) === '.json') return path;
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats !== undefined && !stats.isDirectory()) {
    throw new ConfigError(
      `${where} is neither a run directory, nor a run file (.yaml), nor a file of tokens (.json)`,
    );
  }
  const runFile = join(path, RUN_FILE);
  // A run that keeps its tokens elsewhere is still the one that is meant.
  if (statSync(runFile, { throwIfNoEntry: false })?.isFile()) {
    return loadRunConfig(runFile, options).coordinator.auth.tokens ?? join(path, TOKENS_FILE);
  }
  return join(path, TOKENS_FILE);
}

/** Where the next run of this file will look. @throws ConfigError where that may not be the run that is meant */
function pathOfNewRun(context: CliContext, file: string): string {
  const { config, notice } = prepareNewRun(context, file, [], () => 0);
  if (notice === null || config.coordinator.auth.tokens !== undefined) return tokensPathOf(config);
  throw new ConfigError(`say which run is meant by its directory: ${notice}`);
}

const UNITS_MS: Readonly<Record<string, number>> = { m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Longer is "for ever". */
const MAX_DAYS = 36_500;

function duration(text: string): number {
  const [, count = '', unit = ''] = /^(\d{1,7})([mhd])$/.exec(text) ?? [];
  const durationMs = Number(count) * (UNITS_MS[unit] ?? 0);
  if (durationMs > 0 && durationMs <= MAX_DAYS * UNITS_MS['d']!) return durationMs;
  throw new InvalidArgumentError(
    'It must be a whole number of minutes, hours or days such as 90m, 12h or 30d.',
  );
}
