import test from 'ava';
import { addTraffic, Traffic, type TrafficReport } from '../../src/coordinator/traffic.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { socketBytes } from '../../src/protocol/socket-bytes.ts';
import { tinyRun } from './tiny-run.ts';

const { shape } = tinyRun('method.param_groups=[{match: [embed_tokens], policy: power}]');

function frameOf(stream: 'contribution' | 'update' | 'sketch', tensor: number, bytes = 100): Uint8Array {
  const header = { stream, step: 1, round: 0, tensor, codec: 'f32' } as const;
  return encodeEnvelope([...splitIntoParts(header, new Uint8Array(bytes))][0]!);
}

test('bytes are counted by trainer, direction and kind, and those of slots by policy', (t) => {
  const traffic = new Traffic(shape.slots);
  const embedding = shape.slots.findIndex(({ policy }) => policy === 'power');
  const layer = shape.slots.findIndex(({ policy }) => policy === 'one-sided');
  const frames = [frameOf('contribution', embedding), frameOf('contribution', layer, 300)] as const;
  for (const frame of frames) traffic.count('b', 'up', frame);
  traffic.count('a', 'down', frameOf('update', layer, 70));
  traffic.count('a', 'up', frameOf('sketch', layer));
  const ready = encodeEnvelope({ kind: 'ready', sequence: 1, device: 'CPU' });
  traffic.count('a', 'up', ready);

  const report = traffic.take();
  const [small, large] = frames.map((frame) => socketBytes(frame.length, true));
  t.deepEqual(Object.keys(report.trainers), ['a', 'b']);
  t.deepEqual(report.trainers['b'], { up: { contribution: small! + large! }, down: {} });
  t.deepEqual(report.trainers['a'], {
    up: {
      refresh: socketBytes(frameOf('sketch', layer).length, true),
      other: socketBytes(ready.length, true),
    },
    down: { update: socketBytes(frameOf('update', layer, 70).length, false) },
  });
  t.deepEqual(report.policies, {
    power: { up: small!, down: 0 },
    'one-sided': { up: large!, down: report.trainers['a']!.down.update! },
  });
  t.deepEqual(traffic.take(), { trainers: {}, policies: {} });
});

test('reports add up, and lines without one count as nothing', (t) => {
  const report = (up: number): TrafficReport => ({
    trainers: { a: { up: { contribution: up }, down: { update: 1 } } },
    policies: { dense: { up, down: 1 } },
  });
  const none: TrafficReport = { trainers: {}, policies: {} };
  const lines = [
    report(2),
    undefined,
    null,
    7,
    { trainers: { a: { up: { snapshot: 9 }, down: {} } } },
    report(3),
    { trainers: { b: { up: { other: 4 }, down: {} } } },
  ];
  t.deepEqual(lines.reduce<TrafficReport>(addTraffic, none), {
    trainers: {
      a: { up: { contribution: 5, snapshot: 9 }, down: { update: 2 } },
      b: { up: { other: 4 }, down: {} },
    },
    policies: { dense: { up: 5, down: 2 } },
  });
});
