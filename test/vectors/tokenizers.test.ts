/** Tokenizers of published kinds against the ids and texts of the reference implementation. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'ava';
import { parseTokenizer } from '../../src/files/tokenizer.ts';

interface Golden {
  readonly cases: readonly {
    readonly name: string;
    readonly tokenizer: object;
    readonly texts: readonly string[];
    readonly ids: readonly (readonly number[])[];
    readonly decoded: readonly string[];
  }[];
}

/** The project's own, whatever folder the other vectors come from. */
const folder = path.join(import.meta.dirname, '../../../test/vectors');
const { cases } = JSON.parse(readFileSync(path.join(folder, 'tokenizers.json'), 'utf8')) as Golden;

test('there are four kinds', (t) => {
  t.is(cases.length, 4);
});

for (const { name, tokenizer, texts, ids, decoded } of cases) {
  test(`${name}: ids and texts are those of the reference`, (t) => {
    const ours = parseTokenizer(JSON.stringify(tokenizer), name);
    for (const [i, text] of texts.entries()) {
      t.deepEqual([...ours.encode(text)], ids[i]!, `text ${i}`);
      t.is(ours.decode(ids[i]!), decoded[i]!);
    }
  });
}
