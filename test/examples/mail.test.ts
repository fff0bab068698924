import test from 'ava';
import fc from 'fast-check';
import { mailText } from '../../examples/federated/mail.ts';

const read = (lines: readonly string[], encoding: BufferEncoding = 'latin1'): string =>
  mailText(Buffer.from(lines.join('\n'), encoding));

test('subject and body are kept, all other headers left out, white space is one space', (t) => {
  const mail = [
    'From admin@example.org  Thu Aug 22 16:37:34 2002',
    'Received: from a by b;',
    '\tSubject: not this one',
    'subject: Two lines',
    '  of subject',
    'X-Other: secret header',
    '',
    'First  line\t here',
    '',
    'Subject: of the body',
  ];
  t.is(read(mail), 'Two lines of subject First line here Subject: of the body');
  t.is(mailText(Buffer.from(mail.join('\r\n'))), read(mail));
});

test('mails without a body, headers or anything are no trouble', (t) => {
  t.is(read(['Subject: only']), 'only');
  t.is(read(['Subject: only', '', '']), 'only');
  t.is(read(['', 'only a body']), 'only a body');
  t.is(read([]), '');
});

test('transfer encodings and character sets are read, and what nobody knows is Latin', (t) => {
  const mail = (type: string, encoding: string, body: string): string =>
    read([`Content-Type: ${type}`, `Content-Transfer-Encoding: ${encoding}`, '', body]);
  t.is(
    mail('text/plain; charset="utf-8"', 'base64', Buffer.from('caf\u00e9').toString('base64')),
    'caf\u00e9',
  );
  t.is(
    mail('text/plain; charset=iso-8859-1', 'Quoted-Printable', 'caf=E9 goes =\non=3D'),
    'caf\u00e9 goes on=',
  );
  t.is(mail('text/plain; charset=koi8-r', '8bit', '\xf0\xd2\xc9'), '\u041f\u0440\u0438');
  t.is(mail('text/plain; charset=nonsense', '8bit', 'caf\xe9'), 'caf\u00e9');
  t.is(read(['Subject: x', '', 'caf\u00e9'], 'utf8'), 'x caf\u00e9');
});

test('encoded words of a subject are read', (t) => {
  const word = `=?utf-8?B?${Buffer.from('Gr\u00fc\u00dfe').toString('base64')}?=`;
  t.is(read([`Subject: Re: ${word} =?iso-8859-1?q?_aus_K=F6ln?=`]), 'Re: Gr\u00fc\u00dfe aus K\u00f6ln');
  t.is(read(['Subject: =?x-strange?Z?abc?=']), '=?x-strange?Z?abc?=');
});

test('HTML loses tags, scripts, styles and comments, also where nothing says that it is HTML', (t) => {
  const html = [
    '<html><head><style>p { color: red }</style><script>alert("x > 1")</script></head>',
    '<BODY><p class="a">Free&nbsp;money&#33; 2 &lt; 3</p><!-- hidden --><br>now</BODY>',
  ];
  t.is(read(['Content-Type: text/html', '', ...html]), 'Free money! 2 < 3 now');
  t.is(read(['', ...html]), 'Free money! 2 < 3 now');
  t.is(read(['', 'a < b and <me@example.org>']), 'a < b and <me@example.org>');
});

test('of a mail in parts the plain text is taken, else the HTML, at any depth, and never an attachment', (t) => {
  const inner = (type: string, body: string): string[] => ['--in', `Content-Type: ${type}`, '', body];
  const mail = (...parts: readonly string[][]): string =>
    read([
      'Content-Type: multipart/mixed; boundary="out"',
      'Subject: s',
      '',
      'This is a mail in parts.',
      '--out  ',
      'Content-Type: multipart/alternative;',
      '\tboundary=in',
      '',
      ...parts.flat(),
      '--in--',
      '--out',
      'Content-Type: image/gif',
      '',
      'GIF89a',
      '--out--',
    ]);
  t.is(mail(inner('text/html', '<b>rich</b>'), inner('text/plain', 'plain')), 's plain');
  t.is(mail(inner('text/html', '<b>rich</b>')), 's rich');
  t.is(mail(inner('text/plain', ' '), inner('text/html', '<b>rich</b>')), 's rich');
  t.is(mail(inner('application/pdf', 'x')), 's');
  t.is(read(['Content-Type: multipart/mixed', '', 'no boundary']), 'no boundary');
  t.is(read(['Content-Type: multipart/mixed; boundary=x', '', 'no parts']), 'no parts');
});

test('a mail in parts within parts without end is given up', (t) => {
  const lines: string[] = [];
  for (let i = 0; i < 50; i++) lines.push(`Content-Type: multipart/mixed; boundary=b${i}`, '', `--b${i}`);
  t.is(read([...lines, '', 'deep']), '');
});

test('a long text is cut between two characters', (t) => {
  t.is(read(['', 'x'.repeat(5000)]).length, 2000);
  t.is(mailText(Buffer.from(`\n${'x'.repeat(1999)}\u{1f600}`)), 'x'.repeat(1999));
});

test('any bytes give a text', (t) => {
  const line = fc.oneof(
    fc.constantFrom(
      'Content-Type: multipart/x; boundary=a',
      '--a',
      '',
      'Content-Transfer-Encoding: base64',
      '<a',
    ),
    fc.string({ unit: 'binary' }),
  );
  fc.assert(
    fc.property(fc.array(line), fc.uint8Array(), (lines, bytes) => {
      const text = mailText(Buffer.concat([Buffer.from(lines.join('\n')), bytes]));
      return text.length <= 2000 && text === text.trim();
    }),
  );
  t.pass();
});
