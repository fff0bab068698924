/** `galore inspect --coverage` in words. Pure. */
import type { LostPosition, RepeatedPosition } from '../coordinator/store/coverage.ts';
import type { RunCoverage } from '../coordinator/store/inspect-coverage.ts';
import { table } from './format.ts';

const HEADINGS = ['epoch', 'sequences', 'before', 'used once', 'used again', 'owed', 'lost', 'to come'];

/** A row for each epoch, the first few faults, and the verdict. */
export function formatCoverage(coverage: RunCoverage): string {
  const { steps, epochs, epochSequences, faults, firstDuplicates, firstMissing } = coverage;
  const rows = epochs.map(({ epoch, sequences, before, once, repeated, owed, lost, ahead }) => [
    epoch === null ? 'all' : String(epoch),
    ...[sequences, before, once, repeated, owed, lost, ahead].map((count) =>
      count === null ? '-' : count.toLocaleString('en-US'),
    ),
  ]);
  const place = (position: number): string => placeOf(position, epochSequences);
  return [
    ...(rows.length === 0 ? [] : [...table([HEADINGS, ...rows]), '']),
    ...firstDuplicates.map((repeated) => formatRepeated(repeated, place)),
    ...firstMissing.map((lost) => formatLost(lost, place)),
    ...faults.map((fault) => `damaged: ${fault}`),
    ...(steps === null || steps.from === 1
      ? []
      : [`Before step ${steps.from} the journal has nothing: ${WORD}`]),
    verdictOn(coverage),
  ].join('\n');
}

const WORD = 'what was used there is by the word of the cursor behind it.';

function formatRepeated(
  { position, uses, wasUsedBefore, isOwed }: RepeatedPosition,
  place: (position: number) => string,
): string {
  const times = [
    ...(wasUsedBefore ? ['before these steps'] : []),
    ...uses.map(({ step, trainerId }) => `in step ${step} by ${trainerId}`),
    ...(isOwed ? ['and owed'] : []),
  ];
  return `${place(position)} is used ${times.join(', ')}`;
}

function formatLost({ position, step }: LostPosition, place: (position: number) => string): string {
  return `${place(position)} is lost${step === null ? '' : ` in step ${step}`}`;
}

/** `sequence 17 of epoch 2`, counted from 0 in the order of the epoch. */
function placeOf(position: number, epochSequences: number | null): string {
  if (epochSequences === null) return `sequence ${position}`;
  return `sequence ${position % epochSequences} of epoch ${Math.floor(position / epochSequences) + 1}`;
}

function verdictOn({ steps, used, duplicates, missing, owed, isExact }: RunCoverage): string {
  if (steps === null) return 'the journal has no step to prove anything by';
  const which = `steps ${steps.from} to ${steps.to}: `;
  const count = used.toLocaleString('en-US');
  if (isExact) return `${which}${count} sequences, each used exactly once an epoch; ${owed} owed`;
  return `${which}NOT EXACT: ${count} sequences, ${duplicates} used again, ${missing} lost, ${owed} owed`;
}
