import test from 'ava';
import { firstRecord, readEvents, scalarRecord } from '../../src/view/tensorboard.ts';

/** Written by tensorboard's RecordWriter: the first event of a file, then two scalars of step 300. */
const BYTES = Buffer.from(
  '1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110' +
    '2b00000000000000861bc34b0900005040fc54d94110ac022a1d0a110a0a747261696e2f6c6f7373' +
    '15000020400a080a016115000080bfbce4b2e7',
  'hex',
);

test('records are those that TensorBoard writes itself, byte for byte', (t) => {
  const scalars = [
    { tag: 'train/loss', value: 2.5 },
    { tag: 'a', value: -1 },
  ];
  const events = [
    firstRecord(1_700_000_000.5),
    scalarRecord({ wallSeconds: 1_700_000_001.25, step: 300, scalars }),
  ];
  t.is(Buffer.concat(events).toString('hex'), BYTES.toString('hex'));
});

test('what was written is read again', (t) => {
  const [first, second, ...more] = readEvents(BYTES);
  t.deepEqual(more, []);
  t.deepEqual(first, { wallSeconds: 1_700_000_000.5, step: 0, scalars: [], end: 40 });
  t.is(second?.step, 300);
  t.is(second?.end, BYTES.length);
  t.deepEqual(
    second?.scalars.map(({ tag, value }) => [tag, value]),
    [
      ['train/loss', 2.5],
      ['a', -1],
    ],
  );
});

test('a file that is cut anywhere, or changed, is read up to its last whole record', (t) => {
  for (let length = 0; length < BYTES.length; length++)
    t.is([...readEvents(BYTES.subarray(0, length))].length, length < 40 ? 0 : 1, `${length} bytes`);
  for (let at = 40; at < BYTES.length; at++) {
    const changed = Buffer.from(BYTES);
    changed[at]! ^= 1;
    t.is([...readEvents(changed)].length, 1, `byte ${at}`);
  }
});
