import { appendFile, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { ExecutionContext } from 'ava';
import { Command } from 'commander';
import { formatInspection, registerInspectCommand } from '../../../src/cli/inspect.ts';
import { resolvedYaml } from '../../../src/config/load.ts';
import { CheckpointError } from '../../../src/errors.ts';
import { formatCoverage } from '../../../src/cli/coverage.ts';
import { coverRun } from '../../../src/coordinator/store/inspect-coverage.ts';
import { inspectRun } from '../../../src/coordinator/store/inspect.ts';
import { beginCheckpoint } from '../../../src/coordinator/store/checkpoint.ts';
import { Journal } from '../../../src/coordinator/store/journal.ts';
import { MetricsLog } from '../../../src/coordinator/store/metrics-log.ts';
import { createRunDirectory } from '../../../src/coordinator/store/run-directory.ts';
import type { RunDirectory } from '../../../src/coordinator/store/run-directory.ts';
import { sizeOf } from '../../../src/galore/slot.ts';
import { stateTensors } from '../../../src/galore/state-table.ts';
import { toHuggingFace } from '../../../src/model/llama-config.ts';
import { buildRunShape } from '../../../src/run-shape.ts';
import { MINIMAL, resolve } from '../../config/parse.ts';
import { tinyConfig } from '../../helpers/tiny-llama.ts';
import { temporaryDir } from '../../temporary-dir.ts';
import { runFacts, writeCheckpoint } from './checkpoints.ts';
import { makeRecord, makeRecords, type TestRecord } from './records.ts';

/** A run of three steps with a checkpoint after the second; still open. */
async function makeRun(t: ExecutionContext): Promise<RunDirectory> {
  const configYaml = 'name: demo\nsteps: 20\nseed: 7\nwire:\n  codec: int8\n';
  const run = await createRunDirectory(temporaryDir(t), { runId: 'abc-123', name: 'demo', configYaml });
  const journal = await Journal.open(run.journalDir, () => {});
  const metrics = await MetricsLog.open(run.metricsPath, 0);
  for (const { frames, summary } of makeRecords(3)) {
    await journal.append(frames, summary);
    const { step } = summary;
    await metrics.append({
      step,
      loss: 9,
      tokens: 100,
      seconds: 0.5,
      bytesUp: 1000 * step,
      bytesDown: 2048,
      trainers: 2,
      traffic: {
        trainers: { a: { up: { contribution: 900 * step }, down: { update: 2000 } } },
        policies: { dense: { up: 900 * step, down: 2000 } },
      },
    });
    if (step === 2) await journal.startSegment();
  }
  await writeCheckpoint(run.checkpointsDir, 1);
  await writeCheckpoint(run.checkpointsDir, 2);
  await journal.close();
  await metrics.close();
  t.teardown(() => run.close());
  return run;
}

/** Every file below `dir` with its size and time, to see that nothing was touched. */
async function fingerprint(dir: string): Promise<string[]> {
  const names = (await readdir(dir, { recursive: true })).sort();
  return await Promise.all(
    names.map(async (name) => {
      const { size, mtimeMs } = await stat(join(dir, name));
      return `${name} ${size} ${mtimeMs}`;
    }),
  );
}

test('a run is shown with its step, traffic, checkpoints and journal, and nothing is touched', async (t) => {
  const run = await makeRun(t);
  const before = await fingerprint(run.path);
  const inspection = await inspectRun(run.path, { isFull: true });
  t.deepEqual(await fingerprint(run.path), before);
  const manifest = JSON.parse(
    await readFile(join(run.checkpointsDir, 'step-000002', 'manifest.json'), 'utf8'),
  ) as {
    weightsSha256: string;
  };
  t.like(inspection, {
    path: run.path,
    name: 'demo',
    runId: 'abc-123',
    step: 3,
    totalSteps: 20,
    seed: 7,
    codec: 'int8',
    coordinator: 'running',
    checkpointStep: 2,
    weightsSha256: manifest.weightsSha256,
    trainers: 2,
    trainerIds: ['a', 'b'],
    lastLoss: 2.5, // 250 nats over 100 tokens, from the journal
    tokens: 300,
    seconds: 1.5,
    bytesUp: 6000,
    bytesDown: 6144,
    traffic: {
      trainers: { a: { up: { contribution: 5400 }, down: { update: 6000 } } },
      policies: { dense: { up: 5400, down: 6000 } },
    },
  });
  const shown = formatInspection(inspection);
  t.regex(shown, /^traffic +contribution +update +refresh +data +snapshot +other$/m);
  t.regex(shown, /^a up +5\.4 kB +0 B +0 B/m);
  t.regex(shown, /^dense +5\.4 kB +6\.0 kB$/m);
  t.deepEqual(
    inspection.checkpoints.map(({ step, sequence, fault }) => [step, sequence, fault]),
    [
      [1, 2, null],
      [2, 4, null],
    ],
  );
  t.like(inspection.journal, { records: 3, tornBytes: 0, fault: null });
  t.deepEqual(
    inspection.journal.segments.map(({ file, firstSequence, lastSequence }) => [
      file,
      firstSequence,
      lastSequence,
    ]),
    [
      ['0000000001.log', 1, 2],
      ['0000000003.log', 3, 3],
    ],
  );
  t.deepEqual(await inspectRun(run.path), inspection);
});

test('who took part is shown with steps and shares', async (t) => {
  const run = await makeRun(t);
  const { members, memberSteps } = await inspectRun(run.path);
  t.deepEqual(memberSteps, { from: 1, to: 3 });
  t.like(members, [
    { trainerId: 'a', steps: 3, spans: [{ from: 1, to: 3 }], sequences: 6, tokens: 180, tokenShare: 0.6 },
    { trainerId: 'b', steps: 3, sequences: 3, tokens: 120 },
  ]);
  const text = formatInspection(await inspectRun(run.path));
  t.regex(text, /^trainer +steps \(of 1 to 3\) +sequences +tokens$/m);
  t.regex(text, /^a +1 to 3 +6 \(66\.7%\) +180 \(60\.0%\)$/m);
});

/** Two sequences a step, four an epoch. In step 2 trainer b is lost, and a uses its sequence in step 3. */
const USES = [
  { members: [one('a', 0), one('b', 1)], cursor: { next: 2, returned: [] } },
  { members: [one('a', 2)], cursor: { next: 4, returned: [3] } },
  { members: [one('a', 3, 4)], cursor: { next: 5, returned: [] } },
];

function one(trainerId: string, ...positions: number[]) {
  return { trainerId, positions };
}

/** A run of these steps; checkpoint 2 states that of `stated`. */
async function makeUses(
  t: ExecutionContext,
  uses: readonly (typeof USES)[number][],
  stated = uses[1]!.cursor,
): Promise<RunDirectory> {
  const run = await createRunDirectory(temporaryDir(t), {
    runId: 'a',
    name: 'demo',
    configYaml: 'steps: 3\n',
  });
  t.teardown(() => run.close());
  await using journal = await Journal.open(run.journalDir, () => {});
  const records: TestRecord[] = [];
  for (const [i, { members, cursor }] of uses.entries()) {
    const previousDigest = records.at(-1)?.summary.digest;
    records.push(makeRecord(i + 1, { members, cursor, ...(previousDigest && { previousDigest }) }));
    await journal.append(records[i]!.frames, records[i]!.summary);
    if (i === 1) await journal.startSegment();
  }
  const writer = await beginCheckpoint(run.checkpointsDir, 2, [{ name: 'weights/a', shape: [1] }], {
    configJson: '{}',
  });
  await writer.write(0, 0, new Uint8Array(4));
  await writer.finish({ ...runFacts(2), sequence: 2, cursor: stated, epochSequences: 4 });
  return run;
}

test('the coverage of a run is told by epoch, and what was given back is not lost', async (t) => {
  const run = await makeUses(t, USES);
  const coverage = await coverRun(run.path);
  t.like(coverage, {
    path: run.path,
    steps: { from: 1, to: 3 },
    epochSequences: 4,
    used: 5,
    duplicates: 0,
    missing: 0,
    isExact: true,
    faults: [],
  });
  const text = formatCoverage(coverage);
  t.regex(text, /^1 +4 +0 +4 +0 +0 +0 +0$/m);
  t.regex(text, /^2 +4 +0 +1 +0 +0 +0 +3$/m);
  t.regex(text, /^steps 1 to 3: 5 sequences, each used exactly once an epoch; 0 owed$/m);
});

test('a journal pruned behind a checkpoint proves the steps after it, from the cursor of the checkpoint', async (t) => {
  const run = await makeUses(t, USES);
  await rm(join(run.journalDir, '0000000001.log'));
  const coverage = await coverRun(run.path);
  t.like(coverage, { steps: { from: 3, to: 3 }, used: 2, isExact: true });
  t.like(coverage.epochs[0], { before: 3, once: 1 });
  t.regex(formatCoverage(coverage), /^Before step 3 the journal has nothing: /m);
});

test('without such a checkpoint the first update says where the order stands', async (t) => {
  const run = await makeUses(t, USES);
  await rm(join(run.checkpointsDir, 'step-000002'), { recursive: true });
  await rm(join(run.journalDir, '0000000001.log'));
  t.like(await coverRun(run.path), { steps: null, used: 0, epochSequences: null, isExact: true });
  t.regex(formatCoverage(await coverRun(run.path)), /no step to prove anything by$/);
});

test('what is used twice and what is lost is told with steps and trainers', async (t) => {
  const run = await makeUses(
    t,
    USES.with(2, { members: [one('b', 2, 4)], cursor: { next: 5, returned: [] } }),
  );
  const coverage = await coverRun(run.path);
  t.like(coverage, { duplicates: 1, missing: 1, isExact: false });
  const text = formatCoverage(coverage);
  t.regex(text, /^sequence 2 of epoch 1 is used in step 2 by a, in step 3 by b$/m);
  t.regex(text, /^sequence 3 of epoch 1 is lost in step 3$/m);
  t.regex(text, /^steps 1 to 3: NOT EXACT: 4 sequences, 1 used again, 1 lost, 0 owed$/m);
});

test('a checkpoint with another cursor than the journal, and a damaged journal, are named', async (t) => {
  const wrong = await coverRun((await makeUses(t, USES, { next: 4, returned: [] })).path);
  t.deepEqual(wrong.faults, [
    'the checkpoint of step 2 has the cursor {"next":4,"returned":[]}, the journal {"next":4,"returned":[3]}',
  ]);
  const run = await makeUses(t, USES);
  const path = join(run.journalDir, '0000000003.log');
  const bytes = await readFile(path);
  bytes[2]! ^= 1;
  await writeFile(path, bytes);
  const { faults, steps } = await coverRun(run.path);
  t.deepEqual(steps, { from: 1, to: 2 });
  t.regex(faults[0]!, /0000000003\.log is damaged: it is not a journal file/);
});

test('after the run no coordinator is shown, and a torn tail is reported but left alone', async (t) => {
  const run = await makeRun(t);
  await run.close();
  const path = join(run.journalDir, '0000000003.log');
  const bytes = await readFile(path);
  await writeFile(path, bytes.subarray(0, bytes.length - 1));
  const inspection = await inspectRun(run.path);
  t.is(inspection.coordinator, 'not running');
  t.is(inspection.step, 2);
  t.is(inspection.journal.tornBytes, bytes.length - 1 - 16);
  t.is((await stat(path)).size, bytes.length - 1);
});

test('damage is reported where it is, and the rest is still shown', async (t) => {
  const run = await makeRun(t);
  await rm(join(run.checkpointsDir, 'step-000002', 'model.safetensors'));
  await rm(join(run.journalDir, '0000000001.log'));
  await writeFile(join(run.journalDir, '0000000001.log'), 'junk');
  await writeFile(join(run.path, 'run.yaml'), ': [');
  await appendFile(run.metricsPath, 'junk');
  const inspection = await inspectRun(run.path);
  t.is(inspection.checkpointStep, 1);
  t.regex(inspection.checkpoints[1]!.fault!, /model\.safetensors is missing/);
  t.regex(inspection.journal.fault!, /its header is cut short at 4 bytes/);
  t.like(inspection, { step: 1, totalSteps: null, seed: null, codec: null, lastLoss: 9, bytesUp: 6000 });
  t.regex(formatInspection(inspection), /damaged: .*model\.safetensors is missing/);
});

test('a flipped bit is found by a full inspection only', async (t) => {
  const run = await makeRun(t);
  const path = join(run.checkpointsDir, 'step-000002', 'model.safetensors');
  const bytes = await readFile(path);
  bytes[bytes.length - 1]! ^= 1;
  await writeFile(path, bytes);
  t.is((await inspectRun(run.path)).checkpointStep, 2);
  const full = await inspectRun(run.path, { isFull: true });
  t.is(full.checkpointStep, 1);
  t.regex(full.checkpoints[1]!.fault!, /model\.safetensors has SHA-256/);
});

test('a run without any step yet is shown', async (t) => {
  const run = await createRunDirectory(temporaryDir(t), {
    runId: 'a',
    name: 'new',
    configYaml: 'steps: 3\n',
  });
  t.teardown(() => run.close());
  const inspection = await inspectRun(run.path);
  t.like(inspection, {
    step: 0,
    checkpointStep: null,
    weightsSha256: null,
    lastLoss: null,
    trainers: 0,
    trainerIds: [],
  });
  t.regex(formatInspection(inspection), /step +0 of 3/);
});

test('what is not a run directory is refused', async (t) => {
  await t.throwsAsync(inspectRun(temporaryDir(t)), {
    instanceOf: CheckpointError,
    message: /is not a run directory/,
  });
});

test('people get a table', async (t) => {
  const run = await makeRun(t);
  const text = formatInspection(await inspectRun(run.path));
  t.regex(text, /^run +demo \(abc-123\)$/m);
  t.regex(text, /^step +3 of 20$/m);
  t.regex(text, /^sent up \/ down +6\.0 kB \/ 6\.1 kB$/m);
  t.regex(text, /^step +3/m);
  t.regex(text, /^0000000001\.log +1 to 2 /m);
  t.regex(text, /^2 +\d/m);
});

test('the method is shown with its rules, its state and bases as stored, and what a step sends', async (t) => {
  const model = tinyConfig({ vocabSize: 300 });
  const config = resolve(MINIMAL, 'method={name: fira, rank: 4}', 'optimizer.name=adamw-8bit');
  const { slots, sizes } = buildRunShape(config, model);
  const run = await createRunDirectory(temporaryDir(t), {
    runId: 'a',
    name: 'demo',
    configYaml: resolvedYaml(config),
  });
  t.teardown(() => run.close());
  const table = stateTensors(slots);
  const configJson = JSON.stringify(toHuggingFace(model));
  const writer = await beginCheckpoint(run.checkpointsDir, 2, table, { configJson });
  for (const [index, { totalBytes }] of table.entries())
    await writer.write(index, 0, new Uint8Array(totalBytes));
  await writer.finish(runFacts(2));
  const payloadNumbers = slots.reduce((sum, slot) => sum + sizeOf(slot.shape), 0);
  const metrics = await MetricsLog.open(run.metricsPath, 0);
  await metrics.append({ step: 2, loss: 9, payloadNumbers, meanRank: 4 });
  await metrics.close();

  const inspection = await inspectRun(run.path);
  const stored = (kind: string): object => {
    const tensors = table.filter((tensor) => tensor.kind === kind);
    return {
      kind,
      tensors: tensors.length,
      bytes: tensors.reduce((sum, tensor) => sum + tensor.totalBytes, 0),
    };
  };
  t.deepEqual(inspection.method, {
    name: 'fira',
    basis: 'svd',
    rule: 'fira',
    plainRule: 'adamw-8bit',
    innerRule: null,
    slotsWithBasis: 14,
    powerSlots: 0,
    slots: sizes.length,
    weightNumbers: payloadNumbers,
    states: ['m', 'm_codes', 'm_scales', 'norm', 'v', 'v_codes', 'v_scales', 'basis'].map(stored) as never,
  });
  const text = formatInspection(inspection);
  t.regex(text, /^method +fira; bases from singular vectors$/m);
  t.regex(text, /^rules +fira for the 14 tensors with bases, adamw-8bit for the other 7$/m);
  // two matrices of 300 x 16: bytes and a scale for every 256 of them
  t.regex(text, /^optimizer +.*: m .*, m_codes 9\.6 kB, m_scales 152 B, norm 56 B, v .*$/m);
  t.regex(text, /^bases +\d/m);
  t.regex(text, /^contribution +[\d,]+ numbers, 100\.0% of the weights, mean rank 4$/m);
});

test.serial('the command prints JSON that holds the inspection', async (t) => {
  const run = await makeRun(t);
  const written: string[] = [];
  const original = process.stdout.write.bind(process.stdout);
  const program = new Command().exitOverride();
  registerInspectCommand(program);
  process.stdout.write = ((text: string) => {
    written.push(text);
    return true;
  }) as typeof process.stdout.write;
  try {
    await program.parseAsync(['node', 'galore', 'inspect', run.path, '--json']);
  } finally {
    process.stdout.write = original;
  }
  const printed = written.find((text) => text.startsWith('{'))!;
  t.deepEqual(JSON.parse(printed), await inspectRun(run.path));
  t.is(process.exitCode ?? 0, 0);
});
