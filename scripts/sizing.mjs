/** Writes the table of sizes into deploy/README.md, from `galore plan`: node scripts/sizing.mjs */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { ROOT } from './setup.mjs';

const run = promisify(execFile);
const DOCUMENT = join(ROOT, 'deploy/README.md');
const MARK = '<!-- scripts/sizing.mjs writes this table -->';
const MODELS = ['60m', '130m', '350m', '1b', '7b'];
const PRESETS = ['lean', 'balanced', 'wan'];
const TRAINERS = 8;
const STAGING_MEMORY = 2048 * 2 ** 20; // of coordinator.staging_memory, the rest is staged in a file
const KEPT = 2; // checkpoints on disk at the least: one that is kept, one that is being written

/** A line of the table: what a run of this size needs. */
export async function rowOf(model, preset) {
  const folder = mkdtempSync(join(tmpdir(), 'galore-sizing-'));
  try {
    const file = join(folder, 'run.yaml');
    const tokenizer = { type: 'bpe', vocab_size: 32000 };
    writeFileSync(
      file,
      JSON.stringify({ name: 'sizes', model, preset, tokenizer, data: { path: folder }, steps: 1000 }),
    );
    const args = [join(ROOT, 'bin/galore.js'), 'plan', file, '--trainers', String(TRAINERS), '--json'];
    const plan = JSON.parse((await run(process.execPath, args)).stdout);
    const { weights, optimizer, bases, feedback, total } = plan.trainerMemory;
    const checkpoint = weights + optimizer + bases + TRAINERS * feedback;
    const cells = [
      `${model} ${preset}`,
      `${megabytes(plan.total.up)} up, ${megabytes(plan.total.down)} down`,
      `${seconds(plan.secondsPerStep.run)}`,
      `${megabytes(TRAINERS * plan.total.up)} in, ${megabytes(TRAINERS * plan.total.down)} out`,
      megabytes(total),
      megabytes(100e6 + 1.5 * Math.min(plan.coordinatorStaging, STAGING_MEMORY)),
      megabytes(KEPT * checkpoint),
      megabytes(100 * plan.update),
    ];
    return `| ${cells.join(' | ')} |`;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function megabytes(bytes) {
  const [count, unit] = bytes < 1e9 ? [bytes / 1e6, 'MB'] : [bytes / 1e9, 'GB'];
  return `${count < 10 ? count.toFixed(1) : count.toFixed(0)} ${unit}`;
}

function seconds(count) {
  return `${count < 10 ? count.toFixed(1) : count.toFixed(0)} s`;
}

async function write() {
  const rows = [];
  for (const model of MODELS) for (const preset of PRESETS) rows.push(await rowOf(model, preset));
  const head = [
    '| model, preset | trainer, a step | at 100 Mbit/s | coordinator, a step | trainer keeps | coordinator memory | two checkpoints | journal, 100 steps |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
  ];
  const text = readFileSync(DOCUMENT, 'utf8');
  const [before, , after] = text.split(MARK);
  const table = [...head, ...rows].join('\n');
  writeFileSync(DOCUMENT, `${before}${MARK}\n\n${table}\n\n${MARK}${after}`);
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) await write();
