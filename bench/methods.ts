/**
 * Compares the methods on one small model: `node dist/bench/methods.js OUT [method…]`. Every run is a
 * real `galore train` of bench/methods.yaml (bench/series.ts says which are made); those in
 * bench/results/methods are a beginning. The table goes to standard output.
 */
import { mean, Series, type Entry } from './series.ts';

const METHODS: readonly Entry[] = [
  { name: 'full AdamW', settings: ['method.name=full'], rates: [0.0005, 0.001, 0.002] },
  { name: 'galore, keep', settings: ['method.moments=keep'], rates: [0.005, 0.01, 0.02] },
  { name: 'galore, transport', settings: ['method.moments=transport'], rates: [0.005, 0.01, 0.02] },
  { name: 'adarankgrad', settings: ['method.name=adarankgrad'], rates: [0.005, 0.01, 0.02] },
  { name: 'galore, 8-bit', settings: ['optimizer.name=adamw-8bit'], rates: [0.005, 0.01, 0.02] },
  { name: 'fira', settings: ['method.name=fira'], rates: [0.005, 0.01, 0.02] },
  {
    name: 'apollo-mini',
    settings: ['method.name=apollo-mini', 'method.rank=1'],
    rates: [0.0025, 0.005, 0.01],
  },
  { name: 'sumo', settings: ['method.name=sumo'], rates: [0.0025, 0.005, 0.01] },
  {
    name: 'two-sided',
    settings: ['method.name=two-sided', 'method.rank=112'],
    rates: [0.005, 0.01, 0.02],
  },
];

const [out, ...only] = process.argv.slice(2);
if (out === undefined) throw new Error('usage: node dist/bench/methods.js OUT [method…]');
const methods = METHODS.filter(({ name }) => only.length === 0 || only.includes(name));
const series = new Series({ file: 'methods.yaml', out, seeds: [0, 1, 2], parallel: 2 });
await series.complete(methods);
process.stdout.write(
  [
    '| method | lr | loss, mean of 3 seeds | spread | numbers a step, millions | MB up a step | all rates, seed 0 |',
    '|---|---|---|---|---|---|---|',
    ...methods.map(row),
    '',
  ].join('\n'),
);

function row(method: Entry): string {
  const runs = series.best(method);
  const [first] = runs;
  if (first === undefined) return `| ${method.name} | - | - | - | - | - | - |`;
  const losses = runs.flatMap(({ loss }) => loss ?? []);
  const spread = `${Math.min(...losses).toFixed(4)} to ${Math.max(...losses).toFixed(4)}`;
  const sent = `${(first.numbers / 1e6).toFixed(2)} | ${(first.bytesUp / 1e6).toFixed(2)}`;
  return `| ${method.name} | ${first.rate} | ${mean(losses).toFixed(4)} | ${spread} | ${sent} | ${series.allRates(method)} |`;
}
