import { readFileSync } from 'node:fs';
import test from 'ava';
import { ProtocolError } from '../../src/errors.ts';
import { codecFor, type CodecName } from '../../src/galore/codec/codec.ts';
import { checkRows } from '../../src/galore/rows.ts';
import { conformanceFiles, ROWS_SLOT } from './conformance.ts';

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
  const { refused, refusedRows } = JSON.parse(readFileSync(new URL('codecs.json', FOLDER), 'utf8')) as {
    refused: Refusal[];
    refusedRows: Refusal[];
  };
  t.true(refused.length > 10);
  for (const { codec, count, why, encoded } of refused) {
    const bytes = Buffer.from(encoded, 'hex');
    t.throws(() => codecFor(codec).check(bytes, count), { instanceOf: ProtocolError }, `${codec}: ${why}`);
  }
  t.is(refusedRows.length, 5);
  for (const { codec, why, encoded } of refusedRows) {
    const bytes = Buffer.from(encoded, 'hex');
    t.throws(() => checkRows(ROWS_SLOT, codec, bytes), { instanceOf: ProtocolError }, `rows: ${why}`);
  }
});
