/**
 * Loss against bytes: `node dist/bench/wire-loss.js OUT [entry…]` trains one small model with every preset, with
 * dense AdamW in f32, int8 and int4, and with the reference GaLore, each a real `galore train` of
 * bench/wire-loss.yaml with one trainer, as which several learn the same, or two with local steps (bench/series.ts says
 * which runs are made). The table goes to standard output, the curves to OUT/loss-over-bytes.svg and
 * OUT/loss-over-time.svg, both with the runs of bench/peers/loss_peers.py if they are in OUT/peers.jsonl.
 * With --draw nothing is trained.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { lineChart, type Line } from '../src/cli/line-chart.ts';
import { mean, Series, type Entry, type Run } from './series.ts';

const LAYERS = 'method.param_groups=[{match: [attn, mlp], scale: 0.2}]';
/** What preset `exact` says, with another codec. */
const DENSE = ['method.name=full', LAYERS, 'optimizer.betas=[0.9, 0.999]'];
const RATES = [0.005, 0.01, 0.02];

const LOCAL_STEPS = 8;

const ENTRIES: readonly Entry[] = [
  { name: 'exact (full AdamW, f32)', settings: ['preset=exact'], rates: RATES },
  { name: 'wan', settings: ['preset=wan'], rates: RATES },
  { name: 'balanced', settings: ['preset=balanced'], rates: RATES },
  { name: 'extreme', settings: ['preset=extreme'], rates: RATES },
  { name: 'wan, delayed', settings: ['preset=wan', 'wire.overlap=delayed'], rates: RATES },
  { name: 'lean', settings: ['preset=lean'], rates: RATES },
  {
    name: 'GaLore as published, f32',
    settings: ['method.preset=parity', 'method.rank=d/4', 'wire.codec=f32'],
    rates: RATES,
  },
  { name: 'dense int4, feedback', settings: [...DENSE, 'wire.codec=int4'], rates: RATES },
  { name: 'dense int8', settings: [...DENSE, 'wire.codec=int8'], rates: RATES },
  {
    name: 'local',
    settings: [
      'preset=local',
      'steps=300',
      'optimizer.schedule={type: cosine, warmup_steps: 30}',
      'evaluation.every=25',
      'coordinator.local_trainers=2',
      'coordinator.start_trainers=2',
    ],
    rates: RATES,
  },
  {
    name: 'full AdamW, f32, one lr for all',
    settings: ['method.name=full', 'wire.codec=f32'],
    rates: [0.001, 0.002, 0.004],
  },
];
const [BASELINE] = ENTRIES;
/** The link of the chart over time: 100 Mbit/s each way, one after the other, as without overlap. */
const BYTES_PER_SECOND = 12.5e6;

const { values: options, positionals } = parseArgs({
  options: { draw: { type: 'boolean', default: false } },
  allowPositionals: true,
});
const [out, ...only] = positionals;
if (out === undefined) throw new Error('usage: node dist/bench/wire-loss.js OUT [entry…] [--draw]');
const entries = ENTRIES.filter(({ name }) => only.length === 0 || only.includes(name));
const common = { file: 'wire-loss.yaml', out, seeds: [0, 1, 2], parallel: 2 };
const [series, peers] = [new Series(common), new Series({ ...common, journal: 'peers.jsonl' })];
if (!options.draw) await series.complete(entries);

const baseline = meanLoss(series.best(BASELINE!));
const peerEntries = peers.names().map((name) => ({ name, settings: [], rates: [] }));
process.stdout.write(
  [
    '| | lr | loss, mean of 3 seeds | spread | over exact | bytes up an optimizer step | fewer bytes than dense f32 | all rates, seed 0 |',
    '|---|---|---|---|---|---|---|---|',
    ...entries.map((entry) => row(series, entry)),
    ...peerEntries.map((entry) => row(peers, entry)),
    '',
  ].join('\n'),
);
const ours = entries.flatMap((entry) => series.best(entry).slice(0, 1));
const curves = [...ours, ...peerEntries.flatMap((entry) => peers.best(entry).slice(0, 1))];
// Chosen for one size of model: what a step computes takes every entry about as long.
const secondsPerStep = Math.min(...ours.map(({ seconds }) => seconds)) / 2400;
const charts = {
  'loss-over-bytes.svg': lineChart({
    title: 'Validation loss over the bytes a trainer has sent and received',
    x: { label: 'megabytes, both ways', isLogarithmic: true },
    y: { label: 'nats per token' },
    lines: curves.map((run) => line(run, ({ bytesUp, bytesDown }) => (bytesUp + bytesDown) / 1e6)),
  }),
  'loss-over-time.svg': lineChart({
    title: 'Validation loss over time with links of 100 Mbit/s',
    x: { label: 'seconds', isLogarithmic: true },
    y: { label: 'nats per token' },
    lines: curves.map((run) =>
      line(
        run,
        ({ step, bytesUp, bytesDown }) =>
          step * (run.method === 'local' ? LOCAL_STEPS : 1) * secondsPerStep +
          (bytesUp + bytesDown) / BYTES_PER_SECOND,
      ),
    ),
  }),
};
for (const [name, svg] of Object.entries(charts)) writeFileSync(join(out, name), svg);

function line({ method, curve = [] }: Run, x: (point: NonNullable<Run['curve']>[number]) => number): Line {
  return { name: method, points: curve.map((point) => [x(point), point.loss]) };
}

function row(runsOf: Series, entry: Entry): string {
  const runs = runsOf.best(entry);
  const [first] = runs;
  if (first === undefined) return `| ${entry.name} | - | - | - | - | - | - | - |`;
  const losses = runs.flatMap(({ loss }) => loss ?? []);
  const over = (100 * (meanLoss(runs) / baseline - 1)).toFixed(2);
  const dense = series.best(BASELINE!)[0]?.bytesUp ?? 0;
  return [
    '',
    ` ${entry.name} `,
    ` ${first.rate} `,
    ` ${meanLoss(runs).toFixed(4)} `,
    ` ${Math.min(...losses).toFixed(4)} to ${Math.max(...losses).toFixed(4)} `,
    ` ${over}% `,
    ` ${bytesOf(first).toFixed(0)} `,
    ` ${(dense / bytesOf(first)).toFixed(1)}x `,
    ` ${runsOf.allRates(entry)} `,
    '',
  ].join('|');
}

/** What a trainer sent in the mean optimizer step. */
function bytesOf({ method, bytesUp }: Run): number {
  return method === 'local' ? bytesUp / LOCAL_STEPS : bytesUp;
}

function meanLoss(runs: readonly Run[]): number {
  return mean(runs.flatMap(({ loss }) => loss ?? []));
}
