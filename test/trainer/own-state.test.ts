/** What `--state` keeps of a trainer, and what a process that is started again makes of it. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { readState } from '../../src/files/state-file.ts';
import type { Logger } from '../../src/log.ts';
import type { OwnValues } from '../../src/trainer/own-state.ts';
import { temporaryDir } from '../temporary-dir.ts';
import { tf } from '../galore/tensors.ts';
import { tinyBatch } from '../helpers/tiny-llama.ts';
import { bases, MODEL, startTrainer, type Trainer } from './displacing.ts';

const { OwnState } = await import('../../src/trainer/own-state.ts');

const BATCHES = [[tinyBatch(MODEL, 2)], [tinyBatch(MODEL, 1, 7, 3)]];
const RUN_ID = '83248c00';

function place(t: ExecutionContext) {
  const directory = temporaryDir(t);
  const warnings: string[] = [];
  const logger = {
    warn: (_event: string, _fields: object, text: string) => warnings.push(text),
  } as unknown as Logger;
  const path = join(directory, `a-${RUN_ID}.safetensors`);
  const next = join(directory, `a-${RUN_ID}.next.safetensors`);
  const open = () => {
    const own = new OwnState(directory, RUN_ID, 'a', logger);
    own.load();
    return own;
  };
  return { directory, path, next, warnings, open };
}

/** Takes a step, and says to `own` what a trainer would, up to the record. */
function contribute(trainer: Trainer, own: InstanceType<typeof OwnState>, step: number): string {
  const work = trainer.begin(BATCHES, { step });
  work.computeGradients(trainer.model);
  work.contributeHeld();
  trainer.sent.clear();
  const hash = trainer.replica.basesSha256();
  own.propose(trainer.replica.slots, step, hash, trainer.locals);
  return hash;
}

/** The numbers that a trainer keeps, by name. */
function keptBy({ locals, replica }: Trainer): readonly unknown[] {
  return locals.clone(replica.slots).map((value) => {
    if (value instanceof Uint8Array) return [...value];
    const numbers = [...(value as InstanceType<typeof tf.Tensor>).dataSync()];
    tf.dispose(value as InstanceType<typeof tf.Tensor>);
    return numbers;
  });
}

/** The same of another process that has taken it over. */
function takenBy(
  t: ExecutionContext,
  found: OwnValues | string | null,
  settings: readonly string[],
): readonly unknown[] {
  if (found === null || typeof found === 'string') throw new Error(`nothing was found: ${found}`);
  const other = startTrainer(t, ...settings);
  other.locals.restore(other.replica.slots, found.values);
  return keptBy(other);
}

for (const settings of [['optimizer.name=adamw'], ['optimizer.name=adamw-8bit'], ['wire.codec=int4']]) {
  test.serial(`a process started again goes on with the same bits: ${settings.join()}`, (t) => {
    const { path, next, open, warnings } = place(t);
    const trainer = startTrainer(t, ...settings);
    const { slots } = trainer.replica;
    const own = open();
    const hash = contribute(trainer, own, 1);
    t.true(existsSync(next) && !existsSync(path));
    trainer.locals.decide(1, true);
    own.settle(true);
    t.true(existsSync(path) && !existsSync(next));
    if (process.platform !== 'win32') t.is(statSync(path).mode & 0o777, 0o600, 'it was made of private data');
    const wanted = keptBy(trainer);

    const again = open();
    t.false(again.isOfLaterStep(1));
    t.deepEqual(
      takenBy(t, again.atSnapshot(slots, { step: 3, countedStep: 1, bases: hash }), settings),
      wanted,
    );
    t.true(again.isOfLaterStep(0));
    t.is(again.atSnapshot(slots, { step: 0, countedStep: 0, bases: hash }), null, 'the records will tell');
    t.deepEqual(takenBy(t, again.atRecord(slots, 1, true, hash), settings), wanted);
    t.is(again.atRecord(slots, 2, false, hash), null);
    t.deepEqual(warnings, []);
  });
}

test.serial(
  'a contribution that was counted while its trainer was gone is known by what was proposed',
  (t) => {
    const { path, next, open } = place(t);
    const trainer = startTrainer(t);
    const { slots } = trainer.replica;
    const own = open();
    contribute(trainer, own, 1);
    trainer.locals.decide(1, true);
    own.settle(true);
    const hash = contribute(trainer, own, 2);
    // The process is killed here: step 1 is kept, step 2 proposed.
    const first = keptBy(trainer);
    const files = [path, next].map((file) => readFileSync(file));
    const restore = (): void => [path, next].forEach((file, i) => writeFileSync(file, files[i]!));

    t.deepEqual(takenBy(t, open().atSnapshot(slots, { step: 4, countedStep: 1, bases: hash }), []), first);
    trainer.locals.decide(2, true);
    const second = keptBy(trainer);
    t.notDeepEqual(second, first);
    t.deepEqual(takenBy(t, open().atSnapshot(slots, { step: 4, countedStep: 2, bases: hash }), []), second);
    t.is(readState(path)!.step, 2, 'what was proposed is what is kept, on disk too');
    t.false(existsSync(next));

    restore();
    const again = open();
    t.deepEqual(takenBy(t, again.atRecord(slots, 1, true, hash), []), first);
    t.deepEqual(takenBy(t, again.atRecord(slots, 2, true, hash), []), second);
    restore();
    t.is(open().atRecord(slots, 2, false, hash), null, 'a step that goes on without it changes nothing');
  },
);

test.serial(
  'what is not that of the last step that counted, or of other bases, is not taken, and why is said',
  (t) => {
    const { path, open, warnings } = place(t);
    const trainer = startTrainer(t);
    const { slots } = trainer.replica;
    const own = open();
    const at = { step: 5, countedStep: 1, bases: trainer.replica.basesSha256() };
    t.regex(String(open().atSnapshot(slots, at)), /there is no sound .*a-83248c00\.safetensors/);
    contribute(trainer, own, 1);
    trainer.locals.decide(1, true);
    own.settle(true);
    const said = (fields: object): unknown => open().atSnapshot(slots, { ...at, ...fields });
    t.regex(
      String(said({ countedStep: 3 })),
      /step 3 counted this trainer last, .*safetensors is of step 1$/,
    );
    t.regex(String(said({ countedStep: undefined })), /does not say which step counted this trainer last/);
    trainer.replica.installBases(2, bases(slots, 50), []);
    t.regex(String(said({ bases: trainer.replica.basesSha256() })), /the bases have changed since step 1/);
    t.not(trainer.replica.basesSha256(), at.bases);

    const averaged = startTrainer(t, 'local_steps={count: 3, moments: averaged, moment_periods: [2, 4]}');
    const missed = open().atSnapshot(averaged.replica.slots, { ...at, step: 2 });
    t.regex(String(missed), /it missed moments that were averaged after step 1/);

    t.deepEqual(warnings, []);
    const bytes = readFileSync(path);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path, bytes);
    t.regex(String(said({})), /there is no/);
    t.regex(warnings.join(), /damaged: its tensors do not have the hash .* would begin with zeros/);
  },
);
