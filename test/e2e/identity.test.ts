/** Who gets in and who does not: a real coordinator with tokens and TLS, real trainers, and strangers by hand. */
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { WebSocket, type ClientOptions } from 'ws';
import { changeTokenFile } from '../../src/identity/token-file.ts';
import { newToken, TOKEN_RANDOM_BYTES, type TokenRole } from '../../src/identity/token.ts';
import { CLOSE_CODES, closeReasonOf } from '../../src/protocol/close-codes.ts';
import { Galore, galore, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';
import { pairPaths, pem, pemPath } from '../helpers/tls.ts';
import { connectRaw, HELLO } from '../support/wire.ts';

/** As a person would see a refusal: over within this time. */
const REFUSAL_MS = 1_000;

interface Served {
  readonly run: TestRun;
  readonly command: Galore;
  readonly url: string;
  /** Makes a token by hand, so that dates can be anything. */
  token(
    role: TokenRole,
    changes?: { lifetimeMs?: number; isRevoked?: boolean },
  ): Promise<{ text: string; id: string }>;
}

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };

let made = 0;

/** A coordinator that waits for trainers, with tokens and whatever `coordinator` says. */
async function serve(t: ExecutionContext, coordinator: object, steps = 3): Promise<Served> {
  const run = new TestRun(
    t,
    tinyConfig(TEST_TEXT, { model, steps, coordinator: { port: 0, ...coordinator } }),
  );
  const path = join(run.dir, 'tokens.json');
  const token: Served['token'] = async (role, { lifetimeMs, isRevoked } = {}) => {
    const random = new Uint8Array(TOKEN_RANDOM_BYTES).fill(++made);
    const nowMs = Date.now();
    const { text, stored } = newToken(role, random, nowMs, lifetimeMs ?? null);
    const revoked = isRevoked ? new Date(nowMs).toISOString() : null;
    await changeTokenFile(path, (tokens) => [...tokens, { ...stored, revoked }]);
    return { text, id: stored.id };
  };
  await token('viewer');
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir, '--log-level', 'debug']);
  const [, url] = await command.printed(/listening on (wss?:\S+?\/);/);
  return { run, command, url: url!, token };
}

/** Says Hello by hand and resolves to how the coordinator answered, which must be soon. */
async function answerTo(t: ExecutionContext, url: string, token: string, options: ClientOptions = {}) {
  const startedMs = performance.now();
  const trainer = await connectRaw(t, url, options);
  trainer.send({ ...HELLO, token, trainerId: `stranger-${++made}` });
  const answer = await Promise.race([
    trainer.closed.then(({ code, reason }) => ({ name: closeReasonOf(code) ?? code, reason })),
    trainer.messages
      .takeWhere(({ kind }) => kind === 'welcome')
      .then(() => ({ name: 'welcome', reason: '' })),
  ]);
  const tookMs = performance.now() - startedMs;
  t.true(tookMs < REFUSAL_MS, `${answer.name} took ${tookMs.toFixed(0)} ms`);
  return { ...answer, trainer };
}

test.serial(
  'wrong, revoked, expired tokens and those of other roles are refused, each with its code',
  async (t) => {
    const { url, token, run, command } = await serve(t, {});
    const good = (await token('trainer')).text;
    const wrong = `${good.slice(0, -4)}AAAA`;
    const cases: [string, string, RegExp][] = [
      ['', 'UNAUTHORIZED', /^this run is joined with a token: /],
      ['secret', 'UNAUTHORIZED', /^the token is not one of this run$/],
      [wrong, 'UNAUTHORIZED', /^the token is not one of this run$/],
      [(await token('trainer', { isRevoked: true })).text, 'TOKEN_REVOKED', /^token \w{8} was revoked$/],
      [(await token('trainer', { lifetimeMs: -1 })).text, 'TOKEN_EXPIRED', /^token \w{8} has expired$/],
      [(await token('viewer')).text, 'WRONG_ROLE', /^token \w{8} is that of a viewer, not of a trainer$/],
      [(await token('operator')).text, 'WRONG_ROLE', /is that of an operator, not of a trainer$/],
    ];
    for (const [text, name, said] of cases) {
      const answer = await answerTo(t, url, text);
      t.is(answer.name, name);
      t.regex(answer.reason, said);
    }
    t.is((await answerTo(t, url, good)).name, 'welcome');

    // A Hello that was recorded and is sent again is that of a newer connection of the same trainer: one is left.
    const first = await connectRaw(t, url);
    const hello = { ...HELLO, token: good, trainerId: 'twice' };
    first.send(hello);
    await first.messages.takeWhere(({ kind }) => kind === 'welcome');
    const again = await connectRaw(t, url);
    again.send(hello);
    await again.messages.takeWhere(({ kind }) => kind === 'welcome');
    t.is((await first.closed).code, CLOSE_CODES.SUPERSEDED.code);

    // A real trainer ends with code 3 and the reason.
    writeFileSync(join(run.folder, 'wrong'), wrong, { mode: 0o600 });
    const refused = await galore(t, 'trainer', url, '--token-file', join(run.folder, 'wrong'));
    t.is(refused.code, 3);
    t.regex(refused.output, /error: .*the token is not one of this run/);
    t.false(command.output.includes(good) || refused.output.includes(wrong));
  },
);

test.serial('who holds a token that is revoked, or expires, is gone within a second', async (t) => {
  const { url, token, run } = await serve(t, {});
  const { text, id } = await token('trainer');
  const { trainer } = await answerTo(t, url, text);
  const { code, output } = await galore(t, 'token', 'revoke', run.dir, id);
  t.is(code, 0, output);
  const startedMs = performance.now();
  t.is((await trainer.closed).code, CLOSE_CODES.TOKEN_REVOKED.code);
  t.true(performance.now() - startedMs < REFUSAL_MS);
  t.is((await answerTo(t, url, text)).name, 'TOKEN_REVOKED');

  const expiring = await answerTo(t, url, (await token('trainer', { lifetimeMs: 1_500 })).text);
  t.is(expiring.name, 'welcome');
  t.is((await expiring.trainer.closed).code, CLOSE_CODES.TOKEN_EXPIRED.code);
});

test.serial(
  'over mutual TLS, on all addresses, a trainer with token and certificate trains; without either it is refused',
  async (t) => {
    const tls = { ...pairPaths('server'), ca: pemPath('ca') };
    const certificates = new TestRun(t, {}).folder;
    const copies = { cert: join(certificates, 'cert.pem'), key: join(certificates, 'key.pem') };
    const install = (name: string): void => {
      const { cert, key } = pairPaths(name);
      copyFileSync(key, copies.key);
      copyFileSync(cert, copies.cert);
    };
    install('server');
    const { run, command, url, token } = await serve(t, { host: '0.0.0.0', tls: { ...tls, ...copies } });
    t.regex(url, /^wss:\/\/0\.0\.0\.0:\d+\/$/);
    const here = url.replace('0.0.0.0', '127.0.0.1');
    const { text, id } = await token('trainer');
    const ca = { ca: pem('ca') };
    const own = { ...ca, cert: pem('trainer'), key: pem('trainer-key') };
    const strange = { ...ca, cert: pem('stranger'), key: pem('stranger-key') };

    for (const options of [ca, strange]) {
      const answer = await answerTo(t, here, text, options);
      t.is(answer.name, 'BAD_CERTIFICATE');
      t.is(answer.reason, 'this coordinator takes only those with a certificate of its own authority');
    }
    t.is((await answerTo(t, here, '', own)).name, 'UNAUTHORIZED');
    const startedMs = performance.now();
    const plain = await t.throwsAsync(connectRaw(t, here.replace('wss:', 'ws:')));
    t.is(plain?.message, 'Unexpected server response: 426');
    t.true(performance.now() - startedMs < REFUSAL_MS);

    // Renewed under an open connection, which stays.
    const { trainer: open, name } = await answerTo(t, here, text, own);
    t.is(name, 'welcome');
    install('renewed');
    await command.printed(/new certificates are in use/);
    t.is(open.webSocket.readyState, WebSocket.OPEN);
    open.send({ kind: 'goodbye', code: CLOSE_CODES.LEAVING.code, reason: '' });
    await open.closed;

    const tokenFile = join(run.folder, 'token');
    writeFileSync(tokenFile, `${text}\n`, { mode: 0o600 });
    const { cert, key } = pairPaths('trainer');
    const args = [
      'trainer',
      here,
      '--token-file',
      tokenFile,
      '--ca',
      pemPath('ca'),
      '--cert',
      cert,
      '--key',
      key,
    ];
    const trainer = new Galore(t, [...args, '--log-level', 'debug']);
    await trainer.printed(/connecting/);
    const secret = text.slice(`galore_${id}_`.length);
    t.false(allArguments().some((words) => words.includes(secret)));
    t.is(await command.exited, 0, command.output);
    t.is(await trainer.exited, 0, trainer.output);
    t.is(run.metrics.length, 3);

    // The secret is nowhere but where it was put.
    for (const { parentPath, name: file } of filesBelow(run.dir)) {
      t.false(readFileSync(join(parentPath, file)).includes(secret), file);
    }
    for (const { output } of [command, trainer]) t.false(output.includes(secret));
    t.true(command.output.includes(id), 'the log names the token by its id');
  },
);

test.serial(
  'galore train with tokens and TLS: its own trainers come in, and no argument shows how',
  async (t) => {
    const config = { port: 0, tls: pairPaths('other-host'), host: '0.0.0.0' };
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, steps: 400, coordinator: config }));
    await changeTokenFile(join(run.dir, 'tokens.json'), () => []);
    const command = new Galore(t, run.trainArgs(1));
    await command.printed(/step 1\/400/);
    if (process.platform === 'linux') {
      const children = childrenOf(command.child.pid!);
      t.true(children.length > 0);
      for (const pid of children) {
        const arguments_ = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        const token = /GALORE_TOKEN=(galore_\w{8}_[\w-]{43})/.exec(
          readFileSync(`/proc/${pid}/environ`, 'utf8'),
        )?.[1];
        t.true(arguments_.includes('trainer-1'));
        t.notRegex(arguments_, /galore_[0-9a-f]{8}_/);
        t.truthy(token);
        for (const { parentPath, name } of filesBelow(run.dir)) {
          t.false(readFileSync(join(parentPath, name)).includes(token!), name);
        }
      }
    }
    command.child.kill('SIGINT');
    t.is(await command.exited, 0, command.output);
    t.notRegex(command.output, /galore_[0-9a-f]{8}_/);
  },
);

test.serial(
  'a coordinator does not listen in the open without tokens and TLS, and leaves nothing behind',
  async (t) => {
    const open = { port: 0, host: '0.0.0.0' };
    const run = new TestRun(t, tinyConfig(TEST_TEXT, { steps: 3, coordinator: open }));
    const refused = await galore(t, 'coordinator', run.configPath, '--dir', run.dir);
    t.is(refused.code, 2);
    t.regex(
      refused.output,
      /^error: coordinator\.host is 0\.0\.0\.0, which other machines can reach: that needs/,
    );
    t.is(refused.output.trim().split('\n').length, 2);
    t.throws(() => readdirSync(run.dir), { code: 'ENOENT' });
    const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir, '--insecure']);
    const [, url] = await command.printed(/listening on (ws:\S+?\/);/);
    t.regex(command.output, /can be reached from other machines, without join tokens and without encryption/);
    t.is((await answerTo(t, url!.replace('0.0.0.0', '127.0.0.1'), '')).name, 'welcome');
  },
);

function filesBelow(folder: string) {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
}

/** Pids of the processes that `pid` has started. */
function childrenOf(pid: number): string[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
}

/** The arguments of every process of this machine, as `ps` shows them to all of its users. */
function allArguments(): string[] {
  if (process.platform !== 'linux') return [];
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      return [readFileSync(`/proc/${pid}/cmdline`, 'utf8')];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}
