import test from 'ava';
import { MessageReader } from '../../src/trainer/light-trainer.ts';

/** A frame as a server sends it: RFC 6455, 5.2. */
function frame(opcode: number, payload: Buffer): Buffer {
  const { length } = payload;
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  head[1] = head.length === 2 ? length : head.length === 4 ? 126 : 127;
  if (head.length === 4) head.writeUInt16BE(length, 2);
  if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2);
  return Buffer.concat([head, payload]);
}

test('short messages are read and long ones passed over, however the bytes are cut', (t) => {
  const short = [Buffer.from('one'), Buffer.alloc(0), Buffer.alloc(300, 2), Buffer.from('last')];
  const long = [Buffer.alloc(65_537, 0x82), Buffer.alloc(200_000, 0x82)];
  const bytes = Buffer.concat([
    ...[frame(2, short[0]!), frame(2, long[0]!), frame(9, short[1]!), frame(2, short[2]!)],
    ...[frame(2, long[1]!), frame(2, short[3]!)],
  ]);
  for (const chunkBytes of [1, 2, 7, 4096, 65_536, bytes.length]) {
    const read: [number, string][] = [];
    const reader = new MessageReader((opcode, payload) => read.push([opcode, payload.toString('hex')]));
    const chunk = Buffer.alloc(chunkBytes); // the same memory each time, as a socket gives it
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      const length = bytes.copy(chunk, 0, at, at + chunkBytes);
      reader.take(chunk.subarray(0, length));
    }
    const expected = short.map((payload, index) => [index === 1 ? 9 : 2, payload.toString('hex')]);
    t.deepEqual(read, expected as [number, string][], `chunks of ${chunkBytes}`);
  }
});
