import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { RunConfig } from '../../src/config/schema.ts';
import { Doorkeeper } from '../../src/coordinator/doorkeeper.ts';
import { ConfigError, DataError } from '../../src/errors.ts';
import { changeTokenFile } from '../../src/identity/token-file.ts';
import { newToken, TOKEN_RANDOM_BYTES, type NewToken } from '../../src/identity/token.ts';
import { SILENT_LOGGER, type Logger } from '../../src/log.ts';
import { parseRunConfig } from '../../src/config/load.ts';
import { pairPaths, pem, pemPath } from '../helpers/tls.ts';
import { temporaryDir } from '../temporary-dir.ts';

const NOW = Date.parse('2030-01-31T12:00:00.000Z');

function configIn(dir: string, coordinator: object = {}): RunConfig {
  const document = { name: 'a', dir: '.', model: '9m', data: { path: 'x' }, steps: 1, coordinator };
  return parseRunConfig(JSON.stringify(document), 'run.yaml', { workingDir: dir, homeDir: '/' });
}

interface Opened {
  readonly keeper: Doorkeeper;
  readonly dir: string;
  readonly path: string;
  readonly token: NewToken;
  readonly errors: string[];
  nowMs: number;
}

async function open(t: ExecutionContext, hasToken: boolean, coordinator: object = {}): Promise<Opened> {
  const dir = temporaryDir(t);
  const path = join(dir, 'tokens.json');
  const token = newToken('trainer', new Uint8Array(TOKEN_RANDOM_BYTES).fill(1), NOW, 60_000);
  if (hasToken) await changeTokenFile(path, () => [token.stored]);
  const errors: string[] = [];
  const logger: Logger = { ...SILENT_LOGGER, error: (_event, _fields, text) => void errors.push(text) };
  const opened = { dir, path, token, errors, nowMs: NOW } as Opened;
  const keeper = await Doorkeeper.open(configIn(dir, coordinator), logger, () => opened.nowMs);
  return Object.assign(opened, { keeper });
}

test('without a file of tokens anyone is let in; with one that is made later, only who has a token', async (t) => {
  const { keeper, path, token } = await open(t, false);
  t.false(keeper.asksForTokens);
  t.deepEqual(keeper.judge('anything'), { isValid: true, tokenId: null });
  await changeTokenFile(path, () => [token.stored]);
  t.like(keeper.judge('anything'), { isValid: false, reason: 'UNAUTHORIZED' });
  t.deepEqual(keeper.judge(token.text), { isValid: true, tokenId: token.stored.id });
  t.like(keeper.judgeAgain(null), { isValid: false, reason: 'UNAUTHORIZED' });
});

test('a file that the configuration names is asked for before it is there', async (t) => {
  const { keeper, dir, token } = await open(t, false, { auth: { tokens: 'keys/joining.json' } });
  t.true(keeper.asksForTokens);
  t.false(keeper.letsAnyoneIn);
  t.like(keeper.judge(''), { isValid: false, reason: 'UNAUTHORIZED' });
  await changeTokenFile(join(dir, 'keys', 'joining.json'), () => [token.stored]);
  t.true(keeper.judge(token.text).isValid);
  t.true(keeper.letsAnyoneIn);
});

test('to look takes a token of a viewer or an operator, and no other, as soon as trainers need one', async (t) => {
  const { keeper, path, token } = await open(t, true);
  const made = (['viewer', 'operator'] as const).map((role, i) =>
    newToken(role, new Uint8Array(TOKEN_RANDOM_BYTES).fill(i + 100), NOW, null),
  );
  await changeTokenFile(path, (before) => [...before, ...made.map(({ stored }) => stored)]);
  for (const { text, stored } of made) {
    t.deepEqual(keeper.judgeViewer(text), { isValid: true, tokenId: stored.id });
    t.like(keeper.judge(text), { isValid: false, reason: 'WRONG_ROLE' });
  }
  t.like(keeper.judgeViewer(token.text), { isValid: false, reason: 'WRONG_ROLE' });
  t.like(keeper.judgeViewer(''), { isValid: false, reason: 'UNAUTHORIZED' });
  t.true((await open(t, false)).keeper.judgeViewer('').isValid);
});

test('a token that is revoked, or expires, is no good from then on to who has come in with it', async (t) => {
  const opened = await open(t, true);
  const { keeper, path, token } = opened;
  const { id } = token.stored;
  t.true(keeper.judge(token.text).isValid);
  t.true(keeper.judgeAgain(id).isValid);
  opened.nowMs = NOW + 60_000;
  t.like(keeper.judgeAgain(id), { isValid: false, reason: 'TOKEN_EXPIRED' });
  opened.nowMs = NOW;
  await changeTokenFile(path, ([stored]) => [{ ...stored!, revoked: '2030-01-31T12:00:00.000Z' }]);
  t.like(keeper.judge(token.text), { isValid: false, reason: 'TOKEN_REVOKED' });
  t.like(keeper.judgeAgain(id), { isValid: false, reason: 'TOKEN_REVOKED' });
  t.false(keeper.letsAnyoneIn);
  await changeTokenFile(path, () => []);
  t.like(keeper.judge(token.text), { isValid: false, reason: 'UNAUTHORIZED' });
  t.like(keeper.judgeAgain(id), { isValid: false, reason: 'UNAUTHORIZED' });
});

test('a file that is damaged or gone opens no door and closes none', async (t) => {
  const { keeper, path, token, errors } = await open(t, true);
  writeFileSync(path, '{');
  t.true(keeper.judge(token.text).isValid);
  t.like(keeper.judge(''), { isValid: false });
  rmSync(path);
  t.true(keeper.judge(token.text).isValid);
  t.like(keeper.judge(''), { isValid: false });
  t.true(keeper.asksForTokens);
  t.regex(errors.join('\n'), /is not JSON; the tokens as they were before stay valid\n.*is gone; the tokens/);
});

test('the trainers that the process starts itself have a token of their own, which no file holds', async (t) => {
  const { keeper, path, token } = await open(t, true);
  const verdict = keeper.judge(keeper.localToken);
  t.true(verdict.isValid);
  t.true(verdict.isValid && keeper.judgeAgain(verdict.tokenId).isValid);
  t.not(keeper.localToken, (await open(t, true)).keeper.localToken);
  await changeTokenFile(path, () => []);
  t.true(keeper.judge(keeper.localToken).isValid);
  t.false(keeper.judge(token.text).isValid);
});

test('what cannot be used is told before anything listens', async (t) => {
  const dir = temporaryDir(t);
  const refusal = (coordinator: object, instanceOf: typeof DataError | typeof ConfigError, message: RegExp) =>
    t.throwsAsync(Doorkeeper.open(configIn(dir, coordinator), SILENT_LOGGER), { instanceOf, message });
  const { cert, key } = pairPaths('server');
  await refusal({ host: '0.0.0.0' }, ConfigError, /needs join tokens .* and a certificate/);
  await refusal({ host: '0.0.0.0', tls: { cert, key } }, ConfigError, /needs join tokens \([^)]*\)\.\n/);
  await refusal({ tls: { cert: 'none.pem', key } }, DataError, /none\.pem does not exist/);
  await refusal(
    { tls: { cert: key, key } },
    DataError,
    /holds no certificate in PEM form, but a private key/,
  );
  await refusal({ tls: { cert, key: cert } }, DataError, /holds no private key in PEM form/);
  await refusal(
    { tls: { cert, key: pemPath('renewed-key') } },
    DataError,
    /is not that of the certificate in/,
  );
  await refusal({ tls: { cert, key, ca: key } }, DataError, /holds no certificate/);
  const chain = join(dir, 'chain.pem');
  writeFileSync(chain, `${pem('server')}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`);
  await refusal({ tls: { cert: chain, key } }, DataError, /chain\.pem, .* cannot be used for TLS: /);
  writeFileSync(join(dir, 'tokens.json'), 'x');
  await refusal({}, DataError, /tokens\.json is not a file of join tokens/);
});

test('a certificate that has expired is warned of, since it is the trainers that will refuse it', async (t) => {
  const warnings: string[] = [];
  const logger: Logger = { ...SILENT_LOGGER, warn: (_event, _fields, text) => void warnings.push(text) };
  const dir = temporaryDir(t);
  for (const name of ['server', 'expired']) {
    await Doorkeeper.open(configIn(dir, { tls: pairPaths(name) }), logger);
  }
  t.deepEqual(warnings, ['the certificate has expired: trainers will refuse it']);
});

test('tokens and TLS together open any address, and --insecure does with a warning', async (t) => {
  const { keeper } = await open(t, true, { host: '0.0.0.0', tls: pairPaths('server') });
  t.is(keeper.warning, null);
  const open2 = await open(t, false, { host: '0.0.0.0', insecure: true });
  t.regex(open2.keeper.warning ?? '', /can be reached from other machines/);
});
