import test from 'ava';
import { checkExposure, type Exposure } from '../../src/coordinator/exposure.ts';
import { ConfigError } from '../../src/errors.ts';

const OPEN: Exposure = {
  host: '0.0.0.0',
  hasTokens: false,
  hasTls: false,
  isInsecure: false,
  tokensPath: 'runs/a',
};

test('an address of this machine needs nothing; any other needs tokens and TLS', (t) => {
  t.is(checkExposure({ ...OPEN, host: '127.0.0.1' }), null);
  t.is(checkExposure({ ...OPEN, hasTokens: true, hasTls: true }), null);
  const cases: [Partial<Exposure>, RegExp][] = [
    [
      {},
      /needs join tokens \(galore token create runs\/a --role trainer\) and a certificate \(coordinator\.tls/,
    ],
    [{ hasTokens: true }, /needs a certificate \(coordinator\.tls: \{cert: FILE, key: FILE\}\)\.\n/],
    [{ hasTls: true }, /needs join tokens \(galore token create runs\/a --role trainer\)\.\n/],
  ];
  for (const [changes, said] of cases) {
    const error = t.throws(() => checkExposure({ ...OPEN, ...changes }), { instanceOf: ConfigError });
    t.regex(error.message, said);
    t.regex(
      error.message,
      /^coordinator\.host is 0\.0\.0\.0, which other machines can reach: .*\n.*--insecure/,
    );
    t.is(error.faults[0]?.field, 'coordinator.host');
  }
});

test('insecure listens all the same, and says what is missing', (t) => {
  const warning = (changes: Partial<Exposure>) => checkExposure({ ...OPEN, isInsecure: true, ...changes });
  t.regex(warning({}) ?? '', /without join tokens and without encryption: keep it inside a trusted network/);
  t.regex(warning({ hasTokens: true }) ?? '', /machines, without encryption: /);
  t.regex(warning({ hasTls: true }) ?? '', /machines, without join tokens: /);
  t.is(warning({ hasTokens: true, hasTls: true }), null);
});
