/** A segment of a journal, as a restart finds it: with damage anywhere, and with wrong content under right checksums. */
import { galore } from '#messages';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join as joinPath } from 'node:path';
import { CheckpointError } from '../../../src/errors.ts';
import {
  encodeEntryHeader,
  encodeSegmentHeader,
  ENTRY_HEADER_BYTES,
  segmentName,
} from '../../../src/coordinator/store/journal-format.ts';
import { scanJournal } from '../../../src/coordinator/store/journal-scan.ts';
import { makeRecords } from '../../coordinator/store/records.ts';
import type { Dice } from '../dice.ts';
import { join, mutateBytes, mutateTree } from '../mutate.ts';
import { Broken, type FuzzTarget } from '../target.ts';

const { Envelope } = galore.v1;

/** A segment that holds these frames, whatever they are. */
function segmentOf(frames: readonly Uint8Array[]): Uint8Array {
  const entries = frames.map((frame) => {
    const entry = join(new Uint8Array(ENTRY_HEADER_BYTES), frame);
    encodeEntryHeader(entry, 0, frame);
    return entry;
  });
  return join(encodeSegmentHeader(1), ...entries);
}

/** Frames one of which is not what it was; its checksum will be right all the same. */
function withOneWrong(frames: readonly Uint8Array[], dice: Dice): readonly Uint8Array[] {
  const at = dice.below(frames.length);
  const frame = frames[at]!;
  let wrong: Uint8Array;
  try {
    const tree = Envelope.toObject(Envelope.decode(frame), {});
    wrong = dice.oneIn(2)
      ? Envelope.encode(mutateTree(tree, dice) as never).finish()
      : mutateBytes(frame, dice, frames);
  } catch {
    wrong = mutateBytes(frame, dice, frames);
  }
  return frames.with(at, wrong);
}

export function journalTarget(): FuzzTarget {
  const frames = makeRecords(6).flatMap((record) => record.frames);
  const whole = segmentOf(frames);
  const dir = mkdtempSync(joinPath(tmpdir(), 'galore-fuzz-'));
  const path = joinPath(dir, segmentName(1));
  return {
    name: 'journal',
    refusals: [CheckpointError],
    generate: (dice) =>
      dice.oneIn(2) ? mutateBytes(whole, dice, [whole]) : segmentOf(withOneWrong(frames, dice)),
    async decode(input) {
      writeFileSync(path, input);
      const { records } = await scanJournal(dir);
      const sparse = await scanJournal(dir, { isFull: false });
      if (sparse.records.length < records.length) {
        throw new Broken(`a quick scan finds ${sparse.records.length} of ${records.length} records`);
      }
    },
    close: () => rmSync(dir, { recursive: true, force: true }),
  };
}
