/** docs/protocol.md says what the source says. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { runConfigSchema } from '../../src/config/schema.ts';
import { sideOf, type ProjType } from '../../src/galore/slot.ts';
import { CLOSE_CODES } from '../../src/protocol/close-codes.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { FIRST_DIGEST, recordDigest } from '../../src/protocol/digest.ts';
import { CODEC_NUMBERS, STREAM_NUMBERS } from '../../src/protocol/enums.ts';
import { encodeEnvelope } from '../../src/protocol/envelope.ts';
import * as limits from '../../src/protocol/limits.ts';
import {
  MESSAGE_RULES,
  STREAM_SENDERS,
  type MessageKind,
  type Peer,
  type StreamName,
} from '../../src/protocol/messages.ts';
import { PROTOCOL_VERSIONS } from '../../src/protocol/version.ts';
import { derive, mix32, randomUint32 } from '../../src/random.ts';
import { MAX_BACKOFF_MS, MIN_BACKOFF_MS } from '../../src/trainer/core/backoff.ts';
import { OPENING_MS, REST_MS } from '../../src/trainer/core/route.ts';

const document = readFileSync(new URL('../../../docs/protocol.md', import.meta.url), 'utf8');
const proto = readFileSync(new URL('../../../proto/galore.proto', import.meta.url), 'utf8');

function cellsOf(line: string): string[] {
  return line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim());
}

/** The rows of the table whose first two column titles are these. */
function tableOf(first: string, second: string): string[][] {
  const lines = document.split('\n');
  const start = lines.findIndex((line) => {
    const [a, b] = cellsOf(line);
    return a === first && b === second;
  });
  if (start < 0) throw new Error(`docs/protocol.md has no table "${first}, ${second}"`);
  const length = lines.slice(start).findIndex((line) => !line.startsWith('|'));
  return lines.slice(start + 2, start + length).map(cellsOf);
}

function camelCase(name: string): string {
  return name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

function senderName(senders: readonly Peer[], names: Record<Peer, string>): string {
  return senders.length === 2 ? 'both' : names[senders[0]!];
}

test('the close codes are those of close-codes.ts', (t) => {
  t.deepEqual(
    tableOf('code', 'name'),
    Object.entries(CLOSE_CODES).map(([name, { code, mayRetry, meaning }]) => [
      `${code}`,
      name,
      mayRetry ? 'yes' : 'no',
      meaning,
    ]),
  );
});

test('the messages are those of the Envelope, with their senders, order and limits', (t) => {
  const fields = [...proto.matchAll(/^ {4}(\w+) (\w+) = (\d+);$/gm)].slice(
    0,
    Object.keys(MESSAGE_RULES).length,
  );
  const expected = fields.map(([, type = '', name = '', number = '']) => {
    const kind = camelCase(name) as MessageKind;
    const { senders, mayOvertake, maxBytes } = MESSAGE_RULES[kind];
    const sender = senderName(senders, { trainer: 't>c', coordinator: 'c>t' });
    return [number, type, sender, mayOvertake ? 'yes' : 'no', `${maxBytes}`];
  });
  const rows = tableOf('number', 'message').map((row) => [...row.slice(0, 4), row[6]]);
  t.deepEqual(rows, expected);
});

test('the directions are those that galore.proto states', (t) => {
  for (const [, comment = '', type = ''] of proto.matchAll(/((?:^\/\/.*\n)+)message (\w+) \{/gm)) {
    const direction = /^\/\/ (t>c|c>t|Either side)/.exec(comment)?.[1];
    const row = tableOf('number', 'message').find(([, name]) => name === type);
    if (direction === undefined || row === undefined) continue;
    t.is(row[2], direction === 'Either side' ? 'both' : direction, type);
  }
});

test('the streams and codecs are those of galore.proto', (t) => {
  const streams = tableOf('number', 'stream');
  t.deepEqual(
    streams.map(([number, name, sender]) => [number, name, sender]),
    Object.entries(STREAM_NUMBERS).map(([name, number]) => [
      `${number}`,
      name.replaceAll(/[A-Z]/g, '_$&').toUpperCase(),
      senderName(STREAM_SENDERS[name as StreamName], { trainer: 'trainer', coordinator: 'coordinator' }),
    ]),
  );
  for (const [number = '', name = ''] of streams) t.true(proto.includes(`STREAM_${name} = ${number};`), name);
  const codecs = tableOf('number', 'codec');
  t.deepEqual(
    codecs.map(([number, name]) => [number, name]),
    Object.entries(CODEC_NUMBERS).map(([name, number]) => [`${number}`, name]),
  );
  for (const [number = '', name = ''] of codecs)
    t.true(proto.includes(`CODEC_${name.toUpperCase()} = ${number};`), name);
});

test('the limits are those of limits.ts', (t) => {
  const constants = Object.entries(limits).flatMap(([name, value]) =>
    typeof value === 'number' ? [[name, `${value}`]] : [],
  );
  const rows = tableOf('limit', 'value').map(([name, value]) => [name, value]);
  t.deepEqual(Object.fromEntries(rows), Object.fromEntries(constants));
  const { maxSequencesPerAssignment } = limits;
  const batches = `${maxSequencesPerAssignment(129)} sequences of 128 tokens, ${maxSequencesPerAssignment(1025)} of 1024`;
  t.true(document.includes(batches), batches);
});

test('the timers have the defaults of the configuration', (t) => {
  const config: Record<string, Record<string, unknown>> = runConfigSchema.parse({
    name: 'x',
    model: '60m',
    data: { path: 'x' },
    steps: 1,
  }) as never;
  const constants: Record<string, unknown> = { MIN_BACKOFF_MS, MAX_BACKOFF_MS, OPENING_MS, REST_MS };
  for (const [timer, value = '', source = ''] of tableOf('timer', 'default')) {
    if (source === '') continue;
    const [section = '', field] = source.split('.');
    const expected = field === undefined ? constants[section] : config[section]?.[field];
    t.is(Number(value.replace(' ms', '')), expected as number, timer);
  }
});

test('the side of a projection is that of slot.ts', (t) => {
  for (const [projType = '', tall = '', wide = ''] of tableOf('proj_type', 'm >= n')) {
    t.is(sideOf(projType as ProjType, 3, 2) as string, tall);
    t.is(sideOf(projType as ProjType, 3, 3) as string, tall);
    t.is(sideOf(projType as ProjType, 2, 3) as string, wide);
  }
});

test('the random numbers of the examples come out', (t) => {
  const key = derive(42, 'omega', 1, 5);
  const results: Record<string, number> = {
    'mix32(1)': mix32(1),
    'mix32(4294967295)': mix32(0xffffffff),
    'derive(42, "omega", 1, 5).low': key.low,
    'derive(42, "omega", 1, 5).high': key.high,
    'random(derive(42, "omega", 1, 5), 0)': randomUint32(key, 0),
    'random(derive(42, "omega", 1, 5), 1)': randomUint32(key, 1),
  };
  t.deepEqual(
    tableOf('call', 'result'),
    Object.entries(results).map(([call, result]) => [call, `${result}`]),
  );
});

test('the digest of the example comes out', (t) => {
  const payload = new Uint8Array(Float32Array.of(1).buffer);
  const header = { kind: 'part', stream: 'update', step: 1, round: 0, tensor: 0, codec: 'f32' } as const;
  const frame = encodeEnvelope({ ...header, offset: 0, totalBytes: 4, payload });
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
  t.deepEqual(
    tableOf('what', 'bytes').map(([, bytes]) => bytes),
    [hex(frame), hex(recordDigest(FIRST_DIGEST, 1, 1, [frame]))],
  );
  t.true(document.includes(`0x${crc32c(new TextEncoder().encode('123456789')).toString(16)}`));
});

test('the version of the document is the newest that is spoken', (t) => {
  t.regex(document, new RegExp(`^Version ${PROTOCOL_VERSIONS[0]}\\.`, 'm'));
});
