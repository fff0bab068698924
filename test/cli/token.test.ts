import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { readTokenFile } from '../../src/identity/token-file.ts';
import { judgeToken } from '../../src/identity/token.ts';
import { RUN_YAML, world, writeRunDirectory, type World } from './fakes.ts';

const TOKEN = /^galore_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\n$/;

/** Runs `galore token …` and gives what it printed on standard output. */
async function tokens(w: World, ...args: readonly string[]): Promise<string> {
  w.out.text = '';
  const code = await w.run('token', ...args);
  if (code !== 0) throw new Error(w.err.text);
  return w.out.text;
}

test('a token is made, shown once on standard output, listed without its secret, and revoked', async (t) => {
  const w = world(t);
  const printed = await tokens(w, 'create', 'run', '--role', 'trainer');
  const [, id = ''] = TOKEN.exec(printed) ?? [];
  t.regex(
    w.err.text,
    new RegExp(`^token ${id} for a trainer, until it is revoked; shown this once, its hash`),
  );
  t.is(w.err.text.includes(printed.trim()), false);
  const path = join(w.dir, 'run', 'tokens.json');
  const stored = new Map(readTokenFile(path)?.map((token) => [token.id, token]));
  t.deepEqual(judgeToken(printed.trim(), stored, 'trainer', Date.now()), { isValid: true, tokenId: id });
  t.false(readFileSync(path, 'utf8').includes(printed.slice(16, -1)));

  const listed = await tokens(w, 'list', 'run');
  t.regex(listed, new RegExp(`^ *${id} +trainer +good `, 'm'));
  t.false(listed.includes(printed.slice(16, -1)));
  t.is(await tokens(w, 'revoke', 'run', id), `token ${id} is revoked\n`);
  t.is(await tokens(w, 'revoke', 'run', id), `token ${id} was revoked before\n`);
  t.regex(await tokens(w, 'list', 'run'), new RegExp(`^ *${id} +trainer +revoked `, 'm'));
  const { tokens: rows } = JSON.parse(await tokens(w, 'list', 'run', '--json')) as {
    tokens: { id: string; state: string }[];
  };
  t.like(rows[0], { id, state: 'revoked' });
});

test('tokens of a run file are where the run will look for them', async (t) => {
  const w = world(t);
  await tokens(w, 'create', 'run.yaml', '--role', 'trainer');
  t.is(readTokenFile(join(w.dir, 'runs', 'tiny', 'tokens.json'))?.length, 1);
  const named =
    'name: tiny\nmodel: 9m\ndata: {path: c.txt}\nsteps: 1\ncoordinator: {auth: {tokens: own.json}}\n';
  writeFileSync(join(w.dir, 'named.yaml'), named);
  await tokens(w, 'create', 'named.yaml', '--role', 'viewer');
  await tokens(w, 'create', 'own.json', '--role', 'operator');
  t.deepEqual(
    readTokenFile(join(w.dir, 'own.json'))?.map(({ role }) => role),
    ['viewer', 'operator'],
  );
});

test('a run file whose directory holds a run may mean that one or the next, and the user must say which', async (t) => {
  const w = world(t);
  writeRunDirectory(join(w.dir, 'runs', 'tiny'), RUN_YAML);
  t.is(await w.run('token', 'create', 'run.yaml', '--role', 'trainer'), 2);
  t.regex(
    w.err.text,
    /say which run is meant by its directory: runs\/tiny holds a run already .* goes to runs\/tiny-2\n/,
  );
  await tokens(w, 'create', 'runs/tiny', '--role', 'trainer');
  t.is(readTokenFile(join(w.dir, 'runs', 'tiny', 'tokens.json'))?.length, 1);
});

test('--out writes the token into a new file for its owner alone and prints it nowhere', async (t) => {
  const w = world(t);
  t.is(await tokens(w, 'create', 'run', '--role', 'trainer', '--out', 'my.token'), '');
  const text = readFileSync(join(w.dir, 'my.token'), 'utf8');
  t.regex(text, TOKEN);
  t.false(w.err.text.includes(text.trim()));
  if (process.platform !== 'win32') t.is(statSync(join(w.dir, 'my.token')).mode & 0o777, 0o600);
  t.is(await w.run('token', 'create', 'run', '--role', 'trainer', '--out', 'my.token'), 2);
  t.is(readTokenFile(join(w.dir, 'run', 'tokens.json'))?.length, 1);
});

test('--expires takes minutes, hours and days; --json prints one object', async (t) => {
  const w = world(t);
  const made = async (time: string): Promise<number> => {
    const printed = await tokens(w, 'create', 'run', '--role', 'viewer', '--expires', time, '--json');
    const { token, expires, role } = JSON.parse(printed) as Record<'token' | 'expires' | 'role', string>;
    t.regex(`${token}\n`, TOKEN);
    t.is(role, 'viewer');
    return Date.parse(expires) - Date.now();
  };
  for (const [time, ms] of [
    ['90m', 5_400_000],
    ['12h', 43_200_000],
    ['30d', 2_592_000_000],
  ] as const) {
    const leftMs = await made(time);
    t.true(leftMs <= ms && leftMs > ms - 60_000, `${time}: ${leftMs}`);
  }
});

test('what cannot be meant is bad input that says what can, and shows no token', async (t) => {
  const w = world(t);
  writeFileSync(join(w.dir, 'notes.txt'), '');
  const secret = await tokens(w, 'create', 'run', '--role', 'trainer');
  const cases: [readonly string[], RegExp][] = [
    [['create', 'run'], /required option '--role <role>' not specified/],
    [['create', 'run', '--role', 'king'], /Allowed choices are trainer, viewer, operator/],
    [['create', 'run', '--role', 'trainer', '--expires', '0d'], /minutes, hours or days such as 90m/],
    [['create', 'run', '--role', 'trainer', '--expires', '30'], /minutes, hours or days/],
    [['create', 'notes.txt', '--role', 'trainer'], /neither a run directory, nor a run file/],
    [['create', 'none.yaml', '--role', 'trainer'], /cannot read none\.yaml/],
    [['list', 'elsewhere'], /tokens\.json does not exist; galore token create makes it/],
    [['revoke', 'elsewhere', 'x'], /does not exist/],
    [
      ['revoke', 'run', secret.trim()],
      /no token has this id; an id is 8 letters and digits: galore token list run/,
    ],
  ];
  for (const [args, said] of cases) {
    w.err.text = '';
    t.is(await w.run('token', ...args), 2, args.join(' '));
    t.regex(w.err.text, said);
    t.false(w.err.text.includes(secret.slice(16, -1)));
  }
  t.false(existsSync(join(w.dir, 'elsewhere')));
});

test('galore token and each of its commands explain themselves, with examples', async (t) => {
  const w = world(t);
  for (const command of [[], ['create'], ['list'], ['revoke']]) {
    const help = await tokens(w, ...command, '--help');
    t.regex(help, /Examples:\n {2}galore token /);
    t.regex(help, /tokens\.json/);
    for (const line of help.split('\n')) t.true(line.length <= 110, line);
  }
});
