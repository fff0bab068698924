/** Updates whose Parts leave before their record is sealed: a real coordinator, and trainers that are sockets. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { startCoordinator } from '../../src/coordinator/coordinator.ts';
import { SILENT_LOGGER } from '../../src/log.ts';
import { parseLlamaConfig } from '../../src/model/llama-config.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import type { CommitMessage, Message, MessageKind, PartMessage } from '../../src/protocol/messages.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { resolve } from '../config/parse.ts';
import { TEST_TEXT } from '../helpers/galore.ts';
import { connectRaw, HELLO, type RawTrainer } from '../support/wire.ts';

const SETTINGS = [
  'model={hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2}',
  'tokenizer={type: byte}',
  'method.name=full',
  'wire.codec=f32',
  'seq_len=8',
  'batch_size=4',
  'coordinator={port: 0, start_trainers: 2}',
  'checkpoint.every=0',
  'evaluation.every=0',
];
const TOKENS_A_TRAINER = 2 * 8;

async function startRun(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'galore-test-'));
  const text = `name: early\nsteps: 3\ndata: {path: ${TEST_TEXT}}\ndir: ${join(folder, 'run')}\n`;
  const { url, stop, finished } = await startCoordinator({
    config: resolve(text, ...SETTINGS),
    mode: 'new',
    cacheDir: join(folder, 'cache'),
    logger: SILENT_LOGGER,
    onReport: () => {},
  });
  t.teardown(async () => {
    stop();
    stop();
    await finished;
    await rm(folder, { recursive: true, force: true });
  });
  return url;
}

/** The next message of a kind; Notices and what else comes before it is dropped. */
function next<Kind extends MessageKind>(
  trainer: RawTrainer,
  kind: Kind,
): Promise<Extract<Message, { kind: Kind }>> {
  type Wanted = Extract<Message, { kind: Kind }>;
  return trainer.messages.takeWhere((message): message is Wanted => message.kind === kind);
}

/** A trainer with the state of step 0, and the Parts of a contribution to any step. */
async function joinRun(t: ExecutionContext, url: string, trainerId: string) {
  const trainer = await connectRaw(t, url);
  trainer.send({ ...HELLO, trainerId });
  const welcome = await next(trainer, 'welcome');
  const { sequence } = await next(trainer, 'snapshotEnd');
  trainer.send({ kind: 'ready', sequence, device: 'none' });
  const config = JSON.parse(welcome.configJson) as ReturnType<typeof resolve>;
  const { sizes } = buildRunShape(config, parseLlamaConfig(JSON.parse(welcome.modelJson), 'the model'));
  const contribution = (step: number): readonly PartMessage[] =>
    sizes.toReversed().flatMap((each) => {
      const { codec, totalBytes } = payloadSize(each, 'contribution', step);
      const header = { stream: 'contribution', step, round: 0, tensor: each.slot.index, codec } as const;
      return [...splitIntoParts(header, new Uint8Array(totalBytes))];
    });
  return { trainer, contribution };
}

function finish(trainer: RawTrainer, step: number, parts: readonly PartMessage[]): void {
  const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
  trainer.send({ kind: 'contribution', step, tokens: TOKENS_A_TRAINER, lossSum: 1, checksum });
}

/** The next `count` Parts of stream UPDATE, as slots. */
async function takeParts(trainer: RawTrainer, count: number): Promise<PartMessage[]> {
  const parts: PartMessage[] = [];
  while (parts.length < count) parts.push(await next(trainer, 'part'));
  return parts;
}

function digestOf(
  { previousDigest, sequence, step }: CommitMessage,
  parts: readonly PartMessage[],
): Uint8Array {
  return recordDigest(previousDigest, sequence, step, parts.map(encodeEnvelope));
}

test('slots leave while contributions come in, are withdrawn when a member is lost, and come again', async (t) => {
  const url = await startRun(t);
  const a = await joinRun(t, url, 'a');
  const b = await joinRun(t, url, 'b');
  for (const { trainer } of [a, b]) t.is((await next(trainer, 'stepAssignment')).step, 1);

  const parts = a.contribution(1);
  for (const part of parts) a.trainer.send(part);
  finish(a.trainer, 1, parts);
  for (const part of b.contribution(1).slice(0, 2)) b.trainer.send(part);
  const early = await takeParts(a.trainer, 2);
  t.deepEqual(
    early.map(({ stream, tensor }) => [stream, tensor]),
    parts.slice(0, 2).map(({ tensor }) => ['update', tensor]),
  );

  b.trainer.webSocket.terminate();
  t.is((await next(a.trainer, 'updateWithdrawn')).step, 1);
  const whole = await takeParts(a.trainer, parts.length);
  t.deepEqual(
    whole.map(({ tensor }) => tensor),
    parts.map(({ tensor }) => tensor),
  );
  const commit = await next(a.trainer, 'commit');
  t.deepEqual(commit.previousDigest, FIRST_DIGEST);
  t.deepEqual(commit.digest, digestOf(commit, whole));
  t.deepEqual(commit.record.type === 'update' && commit.record.members.map(({ trainerId }) => trainerId), [
    'a',
  ]);
});

test('of a step without losses everything but the Commit has left before the last contribution is declared', async (t) => {
  const url = await startRun(t);
  const [a, b] = [await joinRun(t, url, 'a'), await joinRun(t, url, 'b')];
  for (const { trainer } of [a, b]) await next(trainer, 'stepAssignment');
  const parts = a.contribution(1);
  for (const { trainer } of [a, b]) for (const part of parts) trainer.send(part);
  const sent = await Promise.all([a, b].map(({ trainer }) => takeParts(trainer, parts.length)));
  for (const { trainer } of [a, b]) finish(trainer, 1, parts);
  for (const [i, { trainer }] of [a, b].entries()) {
    const following = await trainer.messages.takeWhere(({ kind }) => kind === 'commit' || kind === 'part');
    if (following.kind !== 'commit') return t.fail('a Part came twice');
    t.deepEqual(following.digest, digestOf(following, sent[i]!));
    trainer.send({ kind: 'ready', sequence: following.sequence, device: 'none' });
  }
});
