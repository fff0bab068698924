/** A real coordinator of a tiny run, and trainers that are sockets: tests say for them what they send. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { bytesOf } from '../../src/array-bytes.ts';
import { startCoordinator } from '../../src/coordinator/coordinator.ts';
import { SILENT_LOGGER, type Logger } from '../../src/log.ts';
import { parseLlamaConfig } from '../../src/model/llama-config.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import type { Message, MessageKind, PartMessage } from '../../src/protocol/messages.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { resolve } from '../config/parse.ts';
import { TEST_TEXT } from '../helpers/galore.ts';
import { connectRaw, HELLO, type RawTrainer } from './wire.ts';

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

/** A run under way. */
export interface RawRun {
  readonly url: string;
  /** Lines of its metrics so far. */
  metrics(): Promise<Record<string, unknown>[]>;
}

/** Starts a coordinator of three steps of 4 sequences of 8 tokens, for two trainers unless `settings` say otherwise. */
export async function startRun(
  t: ExecutionContext,
  settings: readonly string[] = [],
  logger: Logger = SILENT_LOGGER,
): Promise<RawRun> {
  const folder = await mkdtemp(join(tmpdir(), 'galore-test-'));
  const dir = join(folder, 'run');
  const text = `name: raw\nsteps: 3\ndata: {path: ${TEST_TEXT}}\ndir: ${dir}\n`;
  const { url, stop, finished } = await startCoordinator({
    config: resolve(text, ...SETTINGS, ...settings),
    mode: 'new',
    cacheDir: join(folder, 'cache'),
    logger,
    onReport: () => {},
  });
  t.teardown(async () => {
    stop();
    stop();
    await finished;
    await rm(folder, { recursive: true, force: true });
  });
  const metrics = async (): Promise<Record<string, unknown>[]> => {
    const lines = (await readFile(join(dir, 'metrics.jsonl'), 'utf8')).trim().split('\n');
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  };
  return { url, metrics };
}

/** The next message of a kind; Notices and what else comes before it is dropped. */
export function next<Kind extends MessageKind>(
  trainer: RawTrainer,
  kind: Kind,
): Promise<Extract<Message, { kind: Kind }>> {
  type Wanted = Extract<Message, { kind: Kind }>;
  return trainer.messages.takeWhere((message): message is Wanted => message.kind === kind);
}

/**
 * A trainer with the state of step 0, and the Parts of a contribution to any step, all of whose numbers are `value`.
 * @param examples that it tells of
 */
export async function joinRun(t: ExecutionContext, url: string, trainerId: string, examples?: number) {
  const trainer = await connectRaw(t, url);
  trainer.send({ ...HELLO, trainerId });
  const welcome = await next(trainer, 'welcome');
  const { sequence } = await next(trainer, 'snapshotEnd');
  const told = examples === undefined ? {} : { examples };
  trainer.send({ kind: 'ready', sequence, device: 'none', ...told });
  const config = JSON.parse(welcome.configJson) as ReturnType<typeof resolve>;
  const { sizes } = buildRunShape(config, parseLlamaConfig(JSON.parse(welcome.modelJson), 'the model'));
  const contribution = (step: number, value = 0): readonly PartMessage[] =>
    sizes.toReversed().flatMap((each) => {
      const { codec, totalBytes } = payloadSize(each, 'contribution', step);
      const header = { stream: 'contribution', step, round: 0, tensor: each.slot.index, codec } as const;
      return [...splitIntoParts(header, bytesOf(new Float32Array(totalBytes / 4).fill(value)))];
    });
  return { trainer, contribution };
}

/** Says that a contribution is complete. */
export function finish(
  trainer: RawTrainer,
  step: number,
  parts: readonly PartMessage[],
  tokens = 16,
  weight?: number,
): void {
  const checksum = parts.reduce((sum, { payload }) => crc32c(payload, sum), 0);
  const told = weight === undefined ? {} : { weight };
  trainer.send({ kind: 'contribution', step, tokens, lossSum: 1, checksum, ...told });
}
