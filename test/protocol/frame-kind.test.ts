import test from 'ava';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { frameKind, type TrafficKind } from '../../src/protocol/frame-kind.ts';
import type { MessageKind, StreamName } from '../../src/protocol/messages.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { socketBytes } from '../../src/protocol/socket-bytes.ts';
import { SAMPLES } from './samples.ts';

/** Kinds of messages that are always for the same; a Part says it by its stream, a Commit by its record. */
const KINDS: Readonly<Partial<Record<MessageKind, TrafficKind>>> = {
  stepAssignment: 'data',
  evaluationAssignment: 'data',
  sketchRequest: 'refresh',
  sketch: 'refresh',
  factorAssignment: 'refresh',
  factor: 'refresh',
  contribution: 'contribution',
  snapshotRequest: 'snapshot',
  snapshotEnd: 'snapshot',
  updateWithdrawn: 'update',
};
const STREAMS: Readonly<Record<StreamName, TrafficKind>> = {
  snapshot: 'snapshot',
  sketch: 'refresh',
  sketchSum: 'refresh',
  factor: 'refresh',
  basis: 'refresh',
  contribution: 'contribution',
  update: 'update',
};

test('every message is counted as what it is for', (t) => {
  for (const { message } of SAMPLES) {
    if (message.kind === 'part') continue;
    const record = message.kind === 'commit' ? message.record.type : null;
    const byRecord = record === 'basis' ? 'refresh' : record;
    const expected = byRecord ?? KINDS[message.kind] ?? 'other';
    t.deepEqual(frameKind(encodeEnvelope(message)), { kind: expected, slot: null }, message.kind);
  }
});

test('a Part is what its stream is; contributions and updates name their slot', (t) => {
  for (const [stream, kind] of Object.entries(STREAMS)) {
    for (const tensor of [0, 7, 300]) {
      for (const bytes of [1, 200, 70_000]) {
        const header = { stream: stream as StreamName, step: 1000, round: 2, tensor, codec: 'f32' as const };
        const [part] = [...splitIntoParts(header, new Uint8Array(bytes).fill(0xff))];
        const slot = kind === 'contribution' || kind === 'update' ? tensor : null;
        t.deepEqual(frameKind(encodeEnvelope(part!)), { kind, slot }, `${stream} ${tensor} ${bytes}`);
      }
    }
  }
});

test('what is no message is other, however it is cut', (t) => {
  const frames = SAMPLES.map(({ message }) => encodeEnvelope(message));
  for (const frame of [new Uint8Array(0), new Uint8Array(40).fill(0xff), new Uint8Array(40)]) {
    t.is(frameKind(frame).kind, 'other');
  }
  for (const frame of frames) {
    for (let length = 0; length < Math.min(frame.length, 60); length++) {
      t.notThrows(() => frameKind(frame.subarray(0, length)));
    }
  }
});

test('a frame has a header of 2, 4 or 10 bytes, and 4 more from a trainer (RFC 6455, 5.2)', (t) => {
  const sizes = [0, 125, 126, 65_535, 65_536].map((bytes) => socketBytes(bytes, false) - bytes);
  t.deepEqual(sizes, [2, 2, 4, 4, 10]);
  t.is(socketBytes(125, true), 131);
});
