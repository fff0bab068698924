/** Rules of aggregation in a real coordinator with seven trainers, two of which send garbage. */
import test, { type ExecutionContext } from 'ava';
import type { AggregationNotice } from '../../src/coordinator/aggregation-notice.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { SILENT_LOGGER, type Logger } from '../../src/log.ts';
import { splitIntoParts } from '../../src/protocol/parts.ts';
import { derive, randomNormal } from '../../src/random.ts';
import { garbageProxy, Garbler } from '../support/garbage-proxy.ts';
import { finish, joinRun, next, startRun } from '../support/raw-run.ts';

const SEVEN = ['batch_size=7', 'coordinator={port: 0, start_trainers: 7, min_trainers: 7}'];
/** What each sends of every number: b and e are not honest. */
const SENT = { a: 1, b: -250, c: 1.25, d: 1.5, e: 3000, f: 1.75, g: 2 } as const;
const HONEST_MEAN = 1.5;

/** A step of seven: the number that the update has of every slot, and the step's line of metrics. */
async function stepOf(t: ExecutionContext, aggregation: string, logger?: Logger) {
  const settings = [...SEVEN, `coordinator.aggregation={${aggregation}}`];
  const { url, metrics } = await startRun(t, settings, logger);
  const joined = [];
  for (const name of Object.keys(SENT)) joined.push(await joinRun(t, url, name));
  for (const { trainer } of joined) await next(trainer, 'stepAssignment');
  for (const [i, value] of Object.values(SENT).entries()) {
    const { trainer, contribution } = joined[i]!;
    const parts = contribution(1, value);
    for (const part of parts) trainer.send(part);
    finish(trainer, 1, parts, 8);
  }
  const { trainer } = joined[0]!;
  const values = new Set<number>();
  for (;;) {
    const message = await trainer.messages.takeWhere(({ kind }) => kind === 'part' || kind === 'commit');
    if (message.kind === 'commit') break;
    if (message.kind !== 'part' || message.stream !== 'update') continue;
    const numbers = codecFor('f32').decode(Uint8Array.from(message.payload), message.payload.length / 4);
    for (const number of numbers) values.add(number);
  }
  await next(trainer, 'stepAssignment'); // the line is written
  const [line = {}] = await metrics();
  t.is(values.size, 1, 'all numbers are equal');
  return { value: [...values][0]!, line, notice: line['aggregation'] as AggregationNotice | undefined };
}

test('with the mean two of seven carry the update away', async (t) => {
  const { value, notice } = await stepOf(t, 'rule: mean');
  t.true(Math.abs(value) > 100, `${value}`);
  t.is(notice, undefined);
});

test('median and trimmed mean take what lies between, and the metrics tell how many they stand', async (t) => {
  const median = await stepOf(t, 'rule: median');
  t.is(median.value, 1.5);
  t.deepEqual(median.notice, { rule: 'median', trainers: 7, tolerated: 3 });
  const trimmed = await stepOf(t, 'rule: trimmed-mean, byzantine: 2');
  t.is(trimmed.value, 1.5); // of 1.25, 1.5, 1.75
  t.deepEqual(trimmed.notice, { rule: 'trimmed-mean', trainers: 7, tolerated: 2, byzantine: 2 });
});

test('Multi-Krum takes the mean of the others, and says in the log and in the metrics whom it left out', async (t) => {
  const lines: string[] = [];
  const logger: Logger = {
    ...SILENT_LOGGER,
    info: (event, _fields, text) => void lines.push(`${event} ${text}`),
  };
  const { value, notice, line } = await stepOf(t, 'rule: multi-krum, byzantine: 2', logger);
  t.true(Math.abs(value - HONEST_MEAN) < 1e-6, `${value}`);
  t.deepEqual(notice?.chosen, ['a', 'c', 'd', 'f', 'g']);
  t.deepEqual(notice?.leftOut, ['b', 'e']);
  t.is(line['trainers'], 7); // they took part, and their sequences are used
  t.true(lines.includes('aggregation.choice multi-krum takes the mean of a, c, d, f, g; left out: b, e'));
});

test('Krum takes the contribution of one with many near it, of equal ones the first', async (t) => {
  const { value, notice } = await stepOf(t, 'rule: krum, byzantine: 2');
  t.is(value, 1.25); // its three nearest are 0.25, 0.25 and 0.5 away, like those of 1.5 and 1.75
  t.deepEqual(notice?.chosen, ['c']);
});

test('centred clipping stays within reach of the honest', async (t) => {
  const { value } = await stepOf(t, 'rule: centred-clipping');
  t.true(Math.abs(value - HONEST_MEAN) < 0.25, `${value}`);
});

test('the norm filter leaves out the large ones, as outliers: reject does', async (t) => {
  const { value, line, notice } = await stepOf(t, 'rule: norm-filter');
  t.is(value, HONEST_MEAN);
  t.is(notice, undefined);
  t.deepEqual(
    (line['outliers'] as { trainerId: string; action: string }[]).map((each) => [
      each.trainerId,
      each.action,
    ]),
    [
      ['b', 'reject'],
      ['e', 'reject'],
    ],
  );
});

test('trainers behind a proxy that makes garbage of their numbers are taken for honest, but for what they send', async (t) => {
  const settings = [...SEVEN, 'coordinator.aggregation={rule: multi-krum, byzantine: 2}'];
  const { url, metrics } = await startRun(t, settings);
  const proxies = [await garbageProxy(t, url, 'opposed'), await garbageProxy(t, url, 'random')];
  const joined = [];
  for (const [i, name] of Object.keys(SENT).entries()) {
    joined.push(await joinRun(t, proxies[i]?.url ?? url, name));
  }
  for (const { trainer } of joined) await next(trainer, 'stepAssignment');
  for (const [i, { trainer, contribution }] of joined.entries()) {
    const parts = contribution(1, 1 + i / 100);
    for (const part of parts) trainer.send(part);
    finish(trainer, 1, parts, 8);
  }
  for (const { trainer } of joined) t.is((await next(trainer, 'commit')).step, 1);
  for (const { trainer } of joined) await next(trainer, 'stepAssignment');
  const [line = {}] = await metrics();
  t.like(line['aggregation'] as AggregationNotice, { leftOut: ['a', 'b'] });
  for (const { replaced } of proxies) t.true(replaced() > 5);
});

test('garbage is made of int8 as of f32, in tensors of several Parts', (t) => {
  const codec = codecFor('int8');
  const count = 1_200_001;
  const values = Float32Array.from({ length: count }, (_, i) => randomNormal(derive(1, 'garble'), i % 1000));
  const header = { stream: 'contribution', step: 1, round: 0, tensor: 0, codec: 'int8' } as const;
  const parts = [...splitIntoParts(header, codec.encode(values, derive(2, 'garble')))];
  t.is(parts.length, 2);
  const garbler = new Garbler('opposed');
  const sent = parts.flatMap((part) => garbler.take(part));
  const bytes = Buffer.concat(sent.map((part) => (part.kind === 'part' ? part.payload : Buffer.alloc(0))));
  const garbage = codec.decode(bytes, count);
  t.true(garbage.every((x, i) => Math.abs(x + 100 * values[i]!) < 6)); // two roundings of 3.3 / 127 times 100
});
