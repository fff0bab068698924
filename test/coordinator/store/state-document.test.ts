import { readFile } from 'node:fs/promises';
import test from 'ava';
import { MAX_DOCUMENT_BYTES, TENSOR_FILES } from '../../../src/coordinator/store/checkpoint-format.ts';
import {
  COMMIT_TAG,
  MAX_JOURNAL_FRAME_BYTES,
  PART_TAG,
  encodeSegmentHeader,
  segmentName,
} from '../../../src/coordinator/store/journal-format.ts';
import { MAX_HEADER_BYTES } from '../../../src/files/safetensors-header.ts';
import { makeRecord } from './records.ts';

const document = await readFile('docs/state.md', 'utf8');

/** Right-hand column of the row of the limits table that begins with `label`. */
function limit(label: string): string | undefined {
  const limits = document.slice(document.indexOf('## Limits'));
  return new RegExp(`^\\| ${label} +\\| ([^|]+?) +\\|$`, 'm').exec(limits)?.[1];
}

test('docs/state.md states the limits of the code', (t) => {
  t.is(limit('frame in a journal'), `${MAX_JOURNAL_FRAME_BYTES / 2 ** 20} MiB`);
  t.is(limit('manifest.json, run.json'), `${MAX_DOCUMENT_BYTES / 2 ** 20} MiB`);
  t.is(limit('safetensors header, index'), `${MAX_HEADER_BYTES.toLocaleString('en-US')} bytes`);
  t.true(document.includes(`1 to ${MAX_JOURNAL_FRAME_BYTES.toLocaleString('en-US')}`));
});

test('docs/state.md states the names and numbers of the formats', (t) => {
  for (const name of TENSOR_FILES) t.true(document.includes(`\`${name}\``), name);
  t.is(Buffer.from(encodeSegmentHeader(5).subarray(0, 8)).toString('latin1'), 'GALOREJL');
  t.true(document.includes('ASCII `GALOREJL`'));
  t.is(segmentName(61), '0000000061.log');
  t.true(
    document.includes(`0x${PART_TAG.toString(16)} is a \`Part\`, 0x${COMMIT_TAG.toString(16)} a \`Commit\``),
  );
  const { frames } = makeRecord(1);
  t.deepEqual(
    frames.map((frame) => frame[0]),
    [PART_TAG, PART_TAG, COMMIT_TAG],
  );
});
