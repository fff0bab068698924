import test from 'ava';
import { connectErrorText, connectFaultOf } from '../../src/trainer/connect-error.ts';

const URL = 'wss://train.example.org:29400/';

test('what no second attempt will mend is told with what to do; all else may be tried again', (t) => {
  const cases: [string, string, string, RegExp][] = [
    ['CERT_NOT_YET_VALID', '', 'BAD_CERTIFICATE', /not valid yet: is the clock of this machine right\?$/],
    ['CERT_HAS_EXPIRED', '', 'BAD_CERTIFICATE', /train\.example\.org:29400 has expired/],
    ['SELF_SIGNED_CERT_IN_CHAIN', '', 'BAD_CERTIFICATE', /give --ca FILE/],
    ['ERR_TLS_CERT_ALTNAME_INVALID', '', 'BAD_CERTIFICATE', /is not for train\.example\.org but for no name/],
    ['ERR_SSL_TLSV1_ALERT_UNKNOWN_CA', '', 'BAD_CERTIFICATE', /does --cert suit it\?$/],
    [
      'EPROTO',
      'ssl3_get_record:wrong version number',
      'TLS_MISMATCH',
      /use ws:\/\/train\.example\.org:29400$/,
    ],
    ['', 'Unexpected server response: 404', 'NO_COORDINATOR', /no coordinator at wss:.*\(404\)/],
    ['', 'Unexpected server response: 426', 'TLS_MISMATCH', /use wss:\/\/train\.example\.org:29400$/],
  ];
  for (const [code, message, reason, said] of cases) {
    const fault = connectFaultOf(URL, { code, message });
    t.is(fault?.reason, reason as 'TLS_MISMATCH', code);
    t.regex(fault?.text ?? '', said);
  }
  for (const [code, message] of [
    ['ECONNREFUSED', ''],
    ['ECONNRESET', 'socket hang up'],
    ['ENOTFOUND', ''],
    [undefined, 'Unexpected server response: 429'],
    [undefined, 'Unexpected server response: 503'],
    ['EPROTO', 'something else'],
  ] as const) {
    t.is(connectFaultOf(URL, { code, message }), null, message);
  }
});

test('one who is too many is told so, and what else went wrong in the words of the system', (t) => {
  const said = (message: string): string => connectErrorText(URL, { message });
  t.regex(
    said('Unexpected server response: 429'),
    /^train\.example\.org:29400 takes no more .* from this address/,
  );
  t.regex(said('Unexpected server response: 503'), /it is full, or stops/);
  t.is(said('connect ECONNREFUSED'), 'connect ECONNREFUSED');
});
