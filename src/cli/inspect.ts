/** `galore inspect DIR`: shows what a run directory holds. */
import type { Command } from 'commander';
import { coverRun } from '../coordinator/store/inspect-coverage.ts';
import { inspectRun } from '../coordinator/store/inspect.ts';
import type { InspectedMethod, InspectedState } from '../coordinator/store/inspect-method.ts';
import type { InspectedCheckpoint, Inspection } from '../coordinator/store/inspect.ts';
import type { StepSpan } from '../coordinator/store/membership.ts';
import type { TrafficReport } from '../coordinator/traffic.ts';
import { TRAFFIC_KINDS } from '../protocol/frame-kind.ts';
import { formatCoverage } from './coverage.ts';
import { formatBytes, table } from './format.ts';

/** Exit code when `--verify` or the quick look finds damage. */
const DAMAGED_EXIT_CODE = 3;

interface InspectFlags {
  readonly json?: boolean;
  readonly verify?: boolean;
  readonly coverage?: boolean;
}

/** Adds the command to `galore`. */
export function registerInspectCommand(program: Command): void {
  program
    .command('inspect')
    .description('show what a run directory holds: step, loss, traffic, checkpoints, journal')
    .argument('<dir>', 'run directory')
    .option('--json', 'print one JSON object')
    .option('--coverage', 'prove from the journal that each sequence is used exactly once an epoch')
    .option('--verify', 'check every byte of journal and checkpoints; takes as long as reading them')
    .addHelpText(
      'after',
      '\nExamples:\n  $ galore inspect runs/demo\n  $ galore inspect runs/demo --json | jq .weightsSha256\n' +
        '  $ galore inspect runs/demo --coverage\n' +
        '\nReads only: a run that is going on is not disturbed. Exits with 3 if something is damaged, or used twice or lost.',
    )
    .action(async (dir: string, options: InspectFlags) => {
      if (options.coverage === true) return await inspectCoverage(dir, options);
      const inspection = await inspectRun(dir, { isFull: options.verify === true });
      const text = options.json === true ? JSON.stringify(inspection, null, 2) : formatInspection(inspection);
      process.stdout.write(`${text}\n`);
      if (faultsOf(inspection).length > 0) process.exitCode = DAMAGED_EXIT_CODE;
    });
}

async function inspectCoverage(dir: string, { json: isJson, verify }: InspectFlags): Promise<void> {
  const coverage = await coverRun(dir, { isFull: verify === true });
  process.stdout.write(`${isJson ? JSON.stringify(coverage, null, 2) : formatCoverage(coverage)}\n`);
  if (!coverage.isExact || coverage.faults.length > 0) process.exitCode = DAMAGED_EXIT_CODE;
}

/** Everything that is damaged, in words. */
function faultsOf({ journal, checkpoints }: Inspection): string[] {
  return [journal.fault, ...checkpoints.map(({ fault }) => fault)].filter((fault) => fault !== null);
}

/** The inspection as a table for people. */
export function formatInspection(inspection: Inspection): string {
  const { journal } = inspection;
  const of = inspection.totalSteps === null ? '' : ` of ${inspection.totalSteps}`;
  const checkpoint = inspection.checkpointStep === null ? 'none' : `step ${inspection.checkpointStep}`;
  const rows: [string, string][] = [
    ['run', `${inspection.name} (${inspection.runId})`],
    ['coordinator', inspection.coordinator],
    ['step', `${inspection.step}${of}`],
    ['loss', inspection.lastLoss === null ? '-' : inspection.lastLoss.toFixed(4)],
    ['trainers', `${inspection.trainers} ${inspection.trainerIds.join(', ')}`.trim()],
    ['tokens', inspection.tokens.toLocaleString('en-US')],
    ['seconds', inspection.seconds.toFixed(1)],
    ['sent up / down', `${formatBytes(inspection.bytesUp)} / ${formatBytes(inspection.bytesDown)}`],
    ...(inspection.method === null ? [] : methodRows(inspection.method)),
    ['contribution', formatContribution(inspection)],
    ['codec, seed', `${inspection.codec ?? '-'}, ${inspection.seed ?? '-'}`],
    ['checkpoint', checkpoint],
    ['weights', inspection.weightsSha256 ?? '-'],
    ...feedbackRows(inspection),
    [
      'journal',
      `${journal.records} records, ${formatBytes(journal.bytes)}, ${journal.segments.length} files`,
    ],
  ];
  if (journal.tornBytes > 0)
    rows.push(['', `${formatBytes(journal.tornBytes)} behind the last complete record`]);
  const width = Math.max(...rows.map(([label]) => label.length));
  const lines = rows.map(([label, value]) => `${label.padEnd(width)}  ${value}`);
  lines.push(...formatMembers(inspection), ...formatTraffic(inspection.traffic));
  if (inspection.checkpoints.length > 0) lines.push('', ...formatCheckpoints(inspection.checkpoints));
  if (journal.segments.length > 0) {
    lines.push('', 'journal file          records                 size');
    for (const { file, firstSequence, lastSequence, bytes } of journal.segments) {
      const records = lastSequence === null ? 'none yet' : `${firstSequence} to ${lastSequence}`;
      lines.push(`${file.padEnd(20)}  ${records.padEnd(22)}  ${formatBytes(bytes)}`);
    }
  }
  const faults = faultsOf(inspection);
  if (faults.length > 0) lines.push('', ...faults.map((fault) => `damaged: ${fault}`));
  return lines.join('\n');
}

/** What trainers kept of their gradients, in the newest good checkpoint: `a 1.2 MB, b 1.2 MB`. */
function feedbackRows({ checkpoints }: Inspection): [string, string][] {
  const newest = checkpoints.findLast(({ fault }) => fault === null);
  const kept = Object.entries(newest?.feedbackBytes ?? {}).map(
    ([id, bytes]) => `${id} ${formatBytes(bytes)}`,
  );
  return kept.length === 0 ? [] : [['feedback', kept.join(', ')]];
}

/** `1,204,224 numbers, 42.1% of the weights, mean rank 96.5` */
function formatContribution({ payloadNumbers, meanRank, method }: Inspection): string {
  if (payloadNumbers === null) return '-';
  const ranks = meanRank === null || meanRank === 0 ? '' : `, mean rank ${Number(meanRank.toFixed(1))}`;
  const share =
    method === null ? '' : `, ${((100 * payloadNumbers) / method.weightNumbers).toFixed(1)}% of the weights`;
  return `${payloadNumbers.toLocaleString('en-US')} numbers${share}${ranks}`;
}

/** Spans of a trainer that are shown. */
const MOST_SPANS = 4;

/** A row for each trainer. */
function formatMembers({ members, memberSteps }: Inspection): string[] {
  if (memberSteps === null) return [];
  const percent = (share: number): string => `(${(100 * share).toFixed(1)}%)`;
  const rows = members.map(({ trainerId, spans, sequences, sequenceShare, tokens, tokenShare }) => [
    trainerId,
    formatSpans(spans),
    `${sequences.toLocaleString('en-US')} ${percent(sequenceShare)}`,
    `${tokens.toLocaleString('en-US')} ${percent(tokenShare)}`,
  ]);
  const { from, to } = memberSteps;
  return ['', ...table([['trainer', `steps (of ${from} to ${to})`, 'sequences', 'tokens'], ...rows])];
}

/** `1 to 17, 25 to 40`; of many the last ones. */
function formatSpans(spans: readonly StepSpan[]): string {
  const shown = spans
    .slice(-MOST_SPANS)
    .map(({ from, to }) => (from === to ? String(from) : `${from} to ${to}`));
  const more = spans.length - shown.length;
  return `${more > 0 ? `${more} more, ` : ''}${shown.join(', ')}`;
}

/** A row for each trainer and direction, then one for each policy. */
function formatTraffic({ trainers, policies }: TrafficReport): string[] {
  const rows = Object.entries(trainers).flatMap(([id, directions]) =>
    (['up', 'down'] as const).map((direction) => [
      `${id} ${direction}`,
      ...TRAFFIC_KINDS.map((kind) => formatBytes(directions[direction][kind] ?? 0)),
    ]),
  );
  const slots = Object.entries(policies).map(([policy, { up, down }]) => [
    policy,
    ...[up, down].map((bytes) => formatBytes(bytes)),
  ]);
  return [
    ...(rows.length === 0 ? [] : ['', ...table([['traffic', ...TRAFFIC_KINDS], ...rows])]),
    ...(slots.length === 0 ? [] : ['', ...table([['policy', 'up', 'down'], ...slots])]),
  ];
}

function formatCheckpoints(checkpoints: readonly InspectedCheckpoint[]): string[] {
  const lines = checkpoints.map(({ step, bytes, created, weightsSha256, fault }) => {
    if (fault !== null) return `${String(step).padEnd(10)}  damaged`;
    const size = formatBytes(bytes ?? 0).padEnd(10);
    return `${String(step).padEnd(10)}  ${size}  ${(created ?? '').padEnd(24)}  ${(weightsSha256 ?? '').slice(0, 16)}`;
  });
  return ['checkpoint  size        made                      weights', ...lines];
}

function methodRows(method: InspectedMethod): [string, string][] {
  const { name, basis, rule, plainRule, innerRule, slots, slotsWithBasis, powerSlots } = method;
  const bases = method.states.filter(({ kind }) => kind === 'basis');
  const rest = slots - slotsWithBasis - powerSlots;
  const power = powerSlots === 0 ? '' : `power for ${powerSlots} tensors, `;
  const rules =
    rule === plainRule || slotsWithBasis === 0
      ? `${power}${plainRule} for ${power === '' ? 'all' : 'the other'} ${slots - powerSlots} tensors, ${slotsWithBasis} of them with bases`
      : `${power}${rule} for the ${slotsWithBasis} tensors with bases, ${plainRule} for the other ${rest}`;
  return [
    ['method', `${name}; ${BASIS_WORDS[basis]}`],
    ['rules', innerRule === null ? rules : `${innerRule} in local steps; ${rules}`],
    ['optimizer', formatStates(method.states.filter(({ kind }) => kind !== 'basis'))],
    ['bases', bases.length === 0 ? 'none stored' : formatBytes(bytesOf(bases))],
  ];
}

const BASIS_WORDS: Readonly<Record<InspectedMethod['basis'], string>> = {
  svd: 'bases from singular vectors',
  dct: 'bases from cosine columns',
  random: 'random orthonormal bases',
  gaussian: 'gaussian bases',
  power: 'bases that move in every step',
  none: 'no bases',
};

/** `24.0 kB: m 12.0 kB, v 12.0 kB` */
function formatStates(states: readonly InspectedState[]): string {
  if (states.length === 0) return 'nothing stored';
  const kinds = states.map(({ kind, bytes }) => `${kind} ${formatBytes(bytes)}`);
  return `${formatBytes(bytesOf(states))}: ${kinds.join(', ')}`;
}

function bytesOf(states: readonly InspectedState[]): number {
  return states.reduce((sum, { bytes }) => sum + bytes, 0);
}
