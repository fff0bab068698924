import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { foldBases, foldNorms } from '../../src/coordinator/core/refresh-schedule.ts';
import { sealBases, type SealedRecord } from '../../src/coordinator/records.ts';
import { sealUpdate } from '../../src/coordinator/update-sums.ts';
import { basisFacts, ranksOf, restoreBases, slotNorms } from '../../src/coordinator/restore-bases.ts';
import { parseRunJson } from '../../src/coordinator/store/checkpoint-format.ts';
import { Journal } from '../../src/coordinator/store/journal.ts';
import { FIRST_DIGEST } from '../../src/protocol/digest.ts';
import { bytesFor, contributionOf, tinyRun } from './tiny-run.ts';

const RUN = tinyRun('method.refresh.converged_ratio=0.5');
const { shape, projected } = RUN;
const PLAN = { updateProjGap: 10, isStaggered: false, lazyThreshold: 0.1, convergedRatio: 0.5 };

/** Bases of all slots but the last (which keeps its own), then the update of that step; five such steps. */
function makeRecords(): SealedRecord[] {
  const records: SealedRecord[] = [];
  const place = (step: number) => ({
    sequence: records.length + 1,
    step,
    previousDigest: records.at(-1)?.commit.digest ?? FIRST_DIGEST,
  });
  for (let step = 1; step <= 5; step++) {
    const bases = new Map(
      projected.slice(0, -1).map((index) => {
        const bytes = bytesFor(shape.sizes[index]?.basis, step, index);
        return [index, { bytes, rank: 1 + step, similarity: step === 1 ? -1 : 0.5 }];
      }),
    );
    records.push(sealBases(place(step), projected, bases));
    const tensors = new Map(
      contributionOf(RUN, step, 'a').map(({ tensor, codec, payload }) => [tensor, { codec, bytes: payload }]),
    );
    records.push(
      sealUpdate(place(step), {
        slots: shape.slots,
        codecs: shape.codecs,
        seed: 1,
        learningRate: 0.1,
        maxGradNorm: undefined,
        contributions: [{ weight: 1, tensors }],
        received: [],
        shards: [],
        cursor: { next: step, returned: [] },
        tellsNorms: true,
      }),
    );
  }
  return records;
}

test('what the journal says of the bases after a restart is what the run knew, from any checkpoint', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'galore-bases-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const journal = await Journal.open(folder, () => {});
  t.teardown(() => journal.close());
  const states = [foldBases([], 1, [], PLAN)];
  for (const { frames, commit } of makeRecords()) {
    const { record, step, sequence, digest } = commit;
    await journal.append(frames, { sequence, step, digest, kind: record.type });
    const before = states.at(-1)!;
    states.push(
      record.type === 'basis'
        ? foldBases(before, step, basisFacts(record), PLAN)
        : foldNorms(before, slotNorms(record, projected)),
    );
  }
  const last = states.at(-1)!;
  for (const [sequence, bases] of states.entries()) {
    t.deepEqual(await restoreBases({ bases, sequence }, journal, PLAN, projected), last);
  }
  t.deepEqual(
    ranksOf(last),
    new Map(projected.slice(0, -1).map((index) => [index, 6])),
    'a slot that keeps its basis keeps its rank',
  );
  const [first] = last;
  t.is(first?.refreshedStep, 5);
  t.deepEqual(first?.similarities, [0.5, 0.5, 0.5, 0.5]);
  t.true(first!.firstNorm! > 0 && first!.firstNorm === first!.lastNorm);
});

test('run.json holds the bases, and one without any is read as before', (t) => {
  const facts = {
    formatVersion: 1,
    runId: 'r',
    name: 'n',
    step: 3,
    sequence: 4,
    digest: '0'.repeat(64),
    refreshedStep: 1,
    cursor: { next: 0, returned: [] },
    seed: 1,
    schedulePosition: 3,
    members: [],
    created: '2026-01-01T00:00:00.000Z',
  };
  const basis = {
    slot: 3,
    rank: 8,
    refreshedStep: 1,
    gap: 20,
    similarities: [0.5],
    firstNorm: 1.5,
    lastNorm: null,
  };
  t.like(parseRunJson(JSON.stringify(facts)), { value: facts });
  t.like(parseRunJson(JSON.stringify({ ...facts, bases: [basis] })), { value: { ...facts, bases: [basis] } });
  for (const change of [{ rank: 0 }, { gap: 0 }, { similarities: ['x'] }, { firstNorm: -1 }, { slot: -1 }]) {
    const parsed = parseRunJson(JSON.stringify({ ...facts, bases: [{ ...basis, ...change }] }));
    t.true('fault' in parsed && parsed.fault.startsWith('bases.0.'), JSON.stringify(change));
  }
});
