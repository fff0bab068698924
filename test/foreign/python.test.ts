import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { text } from 'node:stream/consumers';
import test, { type ExecutionContext } from 'ava';
import { recordDigest } from '../../src/protocol/digest.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { sampleOf } from '../protocol/samples.ts';
import { expectMessage, snapshotFrames, startServer, WELCOME } from '../support/wire.ts';

/** Starts the trainer and brings it to Ready at record 3. */
async function joinPython(t: ExecutionContext) {
  const server = await startServer(t, { heartbeatIntervalMs: 50 });
  const { url, messages } = server;
  const python = spawn('python3', ['-Bu', TRAINER, url, 'python', 'secret'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => python.kill());
  const exited = once(python, 'exit');
  const output = text(python.stdout);
  const { connection, message: hello } = await expectMessage(messages, 'hello');
  t.like(hello, {
    trainerId: 'python',
    token: 'secret',
    protocolVersions: [5],
    codecs: ['f32', 'bf16', 'int8', 'int4'],
  });
  const [welcome, ...rest] = snapshotFrames(3, new Uint8Array(32).fill(7));
  connection.send({ ...WELCOME, ...welcome, heartbeatIntervalMs: 50 } as typeof WELCOME);
  for (const message of rest) connection.send(message);
  t.is((await expectMessage(messages, 'ready')).message.sequence, 3);
  return { ...server, connection, exited, output };
}

const TRAINER = fileURLToPath(new URL('../../../test/foreign/trainer.py', import.meta.url));
const hasPython =
  spawnSync('python3', ['-c', 'import sys; sys.exit(sys.version_info < (3, 10))']).status === 0;
const testWithPython = hasPython ? test : test.skip;
if (!hasPython)
  console.log('skipped: python3 (3.10 or newer) is not installed, so the foreign trainer cannot be run');

testWithPython(
  'a trainer in Python joins, answers a step with nothing, checks the record and leaves',
  async (t) => {
    const { messages, ends, fatals, connection, exited, output } = await joinPython(t);

    // A record made while it was catching up: Ready is said again. It has a Part of 1 MiB and is followed by an update.
    let previousDigest: Uint8Array = new Uint8Array(32).fill(7);
    const sendRecord = (sequence: number, bytes: number, record = sampleOf('commit').record): void => {
      const header = { stream: record.type, step: 4, round: 0, tensor: 0, codec: 'f32' } as const;
      const frames = [...splitIntoParts(header, new Uint8Array(bytes).fill(1))].map(encodeEnvelope);
      const digest = recordDigest(previousDigest, sequence, 4, frames);
      for (const frame of frames) connection.send(frame);
      connection.send({ kind: 'commit', sequence, step: 4, previousDigest, digest, record });
      previousDigest = digest;
    };
    sendRecord(4, 3 * 1024 * 1024 + 5);
    t.is((await expectMessage(messages, 'ready')).message.sequence, 4);

    connection.send({ ...sampleOf('stepAssignment'), step: 4, refreshSlots: [] });
    t.deepEqual((await expectMessage(messages, 'contribution')).message, {
      kind: 'contribution',
      step: 4,
      tokens: 0,
      lossSum: 0,
      checksum: 0,
    });
    await expectMessage(messages, 'heartbeat');
    const early = { stream: 'update', step: 4, round: 0, tensor: 0, codec: 'f32' } as const;
    for (const part of splitIntoParts(early, new Uint8Array(8))) connection.send(part);
    connection.send({ kind: 'updateWithdrawn', step: 4 });
    sendRecord(5, 12, {
      type: 'update',
      learningRate: 0.1,
      tokens: 4,
      lossSum: 2,
      members: [],
      cursor: { next: 2, returned: [] },
      gradientNorm: 1,
      slotNorms: [],
    });

    const end = await ends.take();
    t.deepEqual([end.code, end.reason], [4015, 'one step was enough']);
    t.deepEqual(await exited, [0, null]);
    t.deepEqual((await output).trim().split('\n'), [
      'welcome demo with a snapshot',
      'state of record 3',
      'record 4 of step 4 is good',
      'assigned step 4',
      'record 5 of step 4 is good',
      'left',
    ]);
    t.deepEqual(fatals, []);
  },
);

testWithPython(
  'a trainer in Python checks a record of generated bases, and leaves when it is to factorise',
  async (t) => {
    const { messages, ends, connection, exited, output } = await joinPython(t);
    const previousDigest = new Uint8Array(32).fill(7);
    const digest = recordDigest(previousDigest, 4, 4, []);
    const record = {
      type: 'basis',
      slots: [1],
      keptSlots: [],
      isGenerated: true,
      ranks: [],
      similarities: [],
    } as const;
    connection.send({ kind: 'commit', sequence: 4, step: 4, previousDigest, digest, record });
    t.is((await expectMessage(messages, 'ready')).message.sequence, 4);
    connection.send({ kind: 'sketchRequest', step: 4, round: 2, slots: [1], seed: 9 });
    t.like((await expectMessage(messages, 'sketch')).message, { step: 4, round: 2, tokens: 0 });
    connection.send({ kind: 'factorAssignment', step: 4, round: 2, slots: [1], isFinal: false });
    const end = await ends.take();
    t.deepEqual([end.code, end.reason], [4015, 'it cannot factorise']);
    t.deepEqual(await exited, [0, null]);
    t.true((await output).includes('record 4 of step 4 is good'));
  },
);

testWithPython('the codecs and messages of the conformance vectors are the same in Python', (t) => {
  const folder = fileURLToPath(new URL('../../../docs/vectors', import.meta.url));
  const { status, stdout, stderr } = spawnSync('python3', ['-B', TRAINER, '--vectors', folder], {
    encoding: 'utf8',
  });
  t.is(status, 0, stderr);
  t.regex(stdout, /^40 encodings, 18 refusals and 30 messages agree$/m);
});
