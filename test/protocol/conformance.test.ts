import { readFileSync } from 'node:fs';
import test from 'ava';
import { ProtocolError } from '../../src/errors.ts';
import { codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import { conformanceFiles } from './conformance.ts';

const FOLDER = new URL('../../../docs/vectors/', import.meta.url);

interface Refusal {
  readonly codec: CodecName;
  readonly count: number;
  readonly why: string;
  readonly encoded: string;
}

test('the conformance vectors in docs/ are those of this build; node scripts/conformance.mjs writes them', (t) => {
  for (const [name, content] of conformanceFiles()) {
    t.true(readFileSync(new URL(name, FOLDER), 'utf8') === content, `${name} is out of date`);
  }
});

test('what the vectors say is refused is refused', (t) => {
  const { refused } = JSON.parse(readFileSync(new URL('codecs.json', FOLDER), 'utf8')) as {
    refused: Refusal[];
  };
  t.true(refused.length > 10);
  for (const { codec, count, why, encoded } of refused) {
    const bytes = Buffer.from(encoded, 'hex');
    t.throws(() => codecFor(codec).check(bytes, count), { instanceOf: ProtocolError }, `${codec}: ${why}`);
  }
});
