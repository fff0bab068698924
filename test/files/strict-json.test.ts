import test from 'ava';
import fc from 'fast-check';
import { parseStrictJson } from '../../src/files/strict-json.ts';

const LIMITS = { depth: 4, keys: 5, values: 10 };

function parse(text: string | Uint8Array, limits = LIMITS): unknown {
  const bytes = typeof text === 'string' ? Buffer.from(text, 'utf8') : text;
  return parseStrictJson(bytes, limits, (reason) => {
    throw new RangeError(reason);
  });
}

const REFUSED: readonly (readonly [title: string, text: string | Uint8Array, reason: RegExp])[] = [
  ['bytes that are no UTF-8', Buffer.from([0x22, 0xff, 0x22]), /^it is not UTF-8$/],
  ['nothing', '', /^it is not JSON/],
  ['an open bracket', '{"a":[', /^it is not JSON/],
  ['a name without end', '{"a', /^it is not JSON/],
  ['a name that ends in a backslash', '{"a\\', /^it is not JSON/],
  ['a name that is there twice', '{"a":1,"b":2,"a":1}', /^the name "a" is there twice$/],
  ['a name that is there twice, once escaped', '{"a":1,"\\u0061":1}', /^the name "a" is there twice$/],
  ['a name twice in an object inside', '[{"x":{"n":1,"n":2}}]', /^the name "n" is there twice$/],
  ['five levels', '[[[[[]]]]]', /^brackets more than 4 deep$/],
  ['six names', '{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}', /^more than 5 names$/],
  ['a long list', `[${'1,'.repeat(20)}1]`, /^more than 10 values$/],
  ['many small objects', `[${'{},'.repeat(20)}{}]`, /^more than 10 values$/],
];

for (const [title, text, reason] of REFUSED) {
  test(`refused: ${title}`, (t) => {
    const error = t.throws(() => parse(text), { instanceOf: RangeError });
    t.regex(error.message, reason);
  });
}

test('a name may come again in another object, and as a value', (t) => {
  const text = '{"a":{"a":"a"},"b":["a","a"],"c":",:{"}';
  t.deepEqual(parse(text), JSON.parse(text));
});

test('what has no name twice is read as by the language itself', (t) => {
  const wide = { depth: 100, keys: 1e6, values: 1e6 };
  fc.assert(
    fc.property(fc.json({ depthSize: 'medium' }), (text) => {
      t.deepEqual(parse(text, wide), JSON.parse(text));
    }),
  );
});
