import test from 'ava';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { MAX_PART_BYTES } from '../../src/protocol/limits.ts';
import { partFrame } from '../../src/protocol/part-frame.ts';

for (const payloadBytes of [1, 100, 127, 128, 16_383, 16_384, MAX_PART_BYTES]) {
  test(`a frame for ${payloadBytes} bytes is the one that the whole message gives`, (t) => {
    const payload = Uint8Array.from({ length: payloadBytes }, (_, i) => (i * 7) % 251);
    const header = { stream: 'snapshot', step: 70_000, round: 0, tensor: 0, codec: 'bf16' } as const;
    for (const [offset, totalBytes] of [
      [0, payloadBytes],
      [3 * MAX_PART_BYTES, 3 * MAX_PART_BYTES + payloadBytes],
    ] as const) {
      const made = partFrame({ ...header, offset, totalBytes }, payloadBytes);
      made.payload.set(payload);
      const whole = encodeEnvelope({ kind: 'part', ...header, offset, totalBytes, payload });
      t.true(Buffer.from(whole).equals(made.frame));
    }
  });
}
