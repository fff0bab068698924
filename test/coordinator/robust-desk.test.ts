/** Robust rules in the bulk side of a step: parts of sums, sketches, sums that leave early, clipping. */
import test from 'ava';
import type { RecordPlace } from '../../src/coordinator/records.ts';
import { StepDesk } from '../../src/coordinator/step-desk.ts';
import { codecFor } from '../../src/galore/codec/codec.ts';
import { carriesSums } from '../../src/galore/slot.ts';
import { crc32c } from '../../src/protocol/crc32c.ts';
import { decodeEnvelope } from '../../src/protocol/envelope.ts';
import { payloadSize } from '../../src/protocol/slot-sizes.ts';
import { partsOf, tinyRun, type TinyRun } from './tiny-run.ts';

const STEP = 5;
const PLACE = { sequence: 1, step: STEP, previousDigest: new Uint8Array(32) };
/** Tokens of each trainer; p_i is that of 35. */
const TOKENS = { a: 9, b: 2, c: 4, d: 5, e: 3, f: 6, g: 6 } as const;
type Name = keyof typeof TOKENS;
const NAMES = Object.keys(TOKENS) as Name[];
const TOTAL = 35;
/** Those that are not honest. */
const BAD: readonly Name[] = ['b', 'f'];

function robustRun(rule: string, ...settings: readonly string[]): TinyRun {
  return tinyRun(
    'coordinator={start_trainers: 7, min_trainers: 7}',
    `coordinator.aggregation={${rule}}`,
    'batch_size=14',
    ...settings,
  );
}

/** Honest trainers send numbers around 1 for each token, the others -1000. */
function valueOf(name: Name): number {
  return BAD.includes(name) ? -1000 : 1 + NAMES.indexOf(name) / 100;
}

function startStep({ config, shape, projected }: TinyRun, sent: Uint8Array[] | null, slots = 0): StepDesk {
  const early = {
    place: (): RecordPlace => PLACE,
    send: (_first: number, frames: readonly Uint8Array[]) => void sent?.push(...frames),
    withdraw: () => {},
  };
  const desk = new StepDesk(config, shape, 1, sent === null ? null : early);
  const positions = [1, 2];
  for (const trainerId of NAMES) {
    const refreshSlots = projected.slice(0, slots);
    desk.assigned({ type: 'assignStep', trainerId, step: STEP, positions, refreshSlots, waitMs: 0 });
  }
  for (const name of NAMES) desk.expect(name, positions, TOKENS[name]);
  return desk;
}

/** The contribution of a mean `valueOf`: of slots that carry sums the trainer's part of it. */
function contribute(desk: StepDesk, { shape }: TinyRun, name: Name): void {
  let checksum = 0;
  for (const [tensor, sizes] of shape.sizes.entries()) {
    const { totalBytes } = payloadSize(sizes, 'contribution', STEP);
    const value = valueOf(name) * (carriesSums(sizes.slot) ? TOKENS[name] / TOTAL : 1);
    const bytes = codecFor('f32').encode(new Float32Array(totalBytes / 4).fill(value), { low: 0, high: 0 });
    for (const part of partsOf({ stream: 'contribution', step: STEP, round: 0, tensor }, bytes)) {
      checksum = crc32c(part.payload, checksum);
      desk.acceptPart(name, part);
    }
  }
  const tokens = TOKENS[name];
  desk.acceptContribution(name, { kind: 'contribution', step: STEP, tokens, lossSum: 1, checksum });
}

function seal(desk: StepDesk, names: readonly Name[] = NAMES): readonly Uint8Array[] {
  const received = names.map((trainerId) => ({ trainerId, tokens: TOKENS[trainerId], lossSum: 1 }));
  const cursor = { next: 3, returned: [] };
  const attendance = { assigned: [...names], late: [], waitMs: 0 };
  const update = { type: 'commitUpdate', step: STEP, received, shards: [], cursor, attendance } as const;
  return desk.sealUpdate(PLACE, update).frames;
}

/** The first number of each slot of an update. */
function firstNumbers(frames: readonly Uint8Array[]): Map<number, number> {
  const numbers = new Map<number, number>();
  for (const frame of frames) {
    const message = decodeEnvelope(frame, 'coordinator');
    if (message.kind !== 'part' || message.offset > 0) continue;
    const bytes = Uint8Array.from(message.payload);
    numbers.set(message.tensor, codecFor('f32').decode(bytes, bytes.length / 4)[0]!);
  }
  return numbers;
}

const RULES = [
  'rule: median',
  'rule: trimmed-mean, byzantine: 2',
  'rule: krum, byzantine: 2',
  'rule: multi-krum, byzantine: 2',
  'rule: centred-clipping',
];

for (const rule of RULES) {
  test(`${rule}: means and parts of a sum come to the same, within what honest trainers sent`, (t) => {
    for (const feedback of ['none', 'payload', 'gradient']) {
      const run = robustRun(rule, `method.feedback=${feedback}`);
      const desk = startStep(run, null);
      for (const name of NAMES) contribute(desk, run, name);
      const numbers = firstNumbers(seal(desk));
      t.is(numbers.size, run.shape.slots.length);
      t.is(run.shape.slots.some(carriesSums), feedback !== 'none');
      for (const value of numbers.values()) t.true(value >= 0.999 && value <= 1.07, `${feedback}: ${value}`);
      t.true(Math.max(...numbers.values()) - Math.min(...numbers.values()) < 1e-5, feedback);
    }
  });

  test(`${rule}: sketches of a refresh are made of honest ones`, (t) => {
    const run = robustRun(rule);
    const desk = startStep(run, null, 2);
    const slots = run.projected.slice(0, 2);
    const at = { step: STEP, round: 1 } as const;
    desk.beginRound({ type: 'requestSketches', trainerIds: NAMES, ...at, slots, jobs: [] });
    for (const name of NAMES) {
      for (const tensor of slots) {
        const { totalBytes } = run.shape.sizes[tensor]!.sketches[0]!;
        const values = new Float32Array(totalBytes / 4).fill(valueOf(name));
        const bytes = codecFor('f32').encode(values, { low: 0, high: 0 });
        for (const part of partsOf({ stream: 'sketch', ...at, tensor }, bytes)) desk.acceptPart(name, part);
      }
      desk.acceptSketch(name, { kind: 'sketch', ...at, tokens: TOKENS[name] });
    }
    const weights = NAMES.map((trainerId) => ({ trainerId, tokens: TOKENS[trainerId], lossSum: 0 }));
    desk.sumSketches({ type: 'sumSketches', ...at, weights });
    const job = { type: 'assignFactors', trainerId: 'a', ...at, slots, isFinal: false } as const;
    const sums = [...firstNumbers(desk.beginJob(job).frames).values()];
    t.is(sums.length, 2);
    for (const value of sums) t.true(value >= 0.999 && value <= 1.07, `${value}`);
  });
}

test('rules of slots leave early with the very bytes of the record, and those that choose at the end', (t) => {
  for (const rule of RULES) {
    const run = robustRun(rule);
    const late = startStep(run, null);
    const sent: Uint8Array[] = [];
    const early = startStep(run, sent);
    for (const name of NAMES) for (const desk of [late, early]) contribute(desk, run, name);
    const expected = seal(late);
    if (rule.includes('krum')) t.deepEqual(sent, []);
    else t.deepEqual(sent, expected.slice(0, -1), rule);
    t.deepEqual(seal(early), expected, rule);
    t.deepEqual(early.notice, late.notice);
  }
});

test('max_grad_norm clips what the rule has made', (t) => {
  for (const rule of RULES) {
    const run = robustRun(rule, 'optimizer.max_grad_norm=0.5');
    const desk = startStep(run, null);
    for (const name of NAMES) contribute(desk, run, name);
    const squares = seal(desk).reduce((sum, frame) => {
      const message = decodeEnvelope(frame, 'coordinator');
      if (message.kind !== 'part') return sum;
      const bytes = Uint8Array.from(message.payload);
      return (
        sum +
        codecFor('f32')
          .decode(bytes, bytes.length / 4)
          .reduce((total, x) => total + x * x, 0)
      );
    }, 0);
    t.true(Math.abs(Math.sqrt(squares) - 0.5) < 1e-4, `${rule}: ${Math.sqrt(squares)}`);
  }
});

test('with outliers: clip the rule is given what was clipped', (t) => {
  const run = robustRun(
    'rule: centred-clipping',
    'coordinator.outliers=clip',
    'coordinator.outlier_factor=2',
  );
  const desk = startStep(run, null);
  for (const name of NAMES) contribute(desk, run, name);
  const received = NAMES.map((trainerId) => ({
    ...{ trainerId, tokens: TOKENS[trainerId], lossSum: 1 },
    ...(BAD.includes(trainerId) && { scale: 0.002 }), // -1000 becomes -2
  }));
  const attendance = { assigned: [...NAMES], late: [], waitMs: 0 };
  const cursor = { next: 3, returned: [] };
  const { frames } = desk.sealUpdate(PLACE, {
    ...{ type: 'commitUpdate', step: STEP, received, shards: [], cursor, attendance },
  });
  for (const value of firstNumbers(frames).values()) t.true(value > 0.9 && value < 1.07, `${value}`);
});

test('a step with fewer members than Krum needs says so, and takes fewer', (t) => {
  const run = robustRun('rule: multi-krum, byzantine: 2');
  const desk = startStep(run, null);
  const five = NAMES.filter((name) => name !== 'c' && name !== 'd');
  for (const name of five) contribute(desk, run, name);
  seal(desk, five);
  t.like(desk.notice, { trainers: 5, tolerated: 1, byzantine: 2 });
  t.is(desk.notice?.chosen?.length, 3);
});
