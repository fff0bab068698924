import test from 'ava';
import { planOf } from '../../../src/coordinator/plan.ts';
import { parseRunConfig } from '../../../src/config/load.ts';
import { llamaConfigFromFields } from '../../../src/model/llama-config.ts';
import { buildRunShape } from '../../../src/run-shape.ts';
import { simulatePerformance, type PerformanceResult } from '../../../src/simulation/scale/performance.ts';
import { parseScenario } from '../../../src/simulation/scale/scenario.ts';
import { workloadOf } from '../../../src/simulation/scale/workload.ts';

interface Case {
  readonly trainers?: number;
  readonly steps?: number;
  readonly seed?: number;
  readonly preset?: string;
  readonly scenario?: string;
  readonly settings?: Readonly<Record<string, unknown>>;
}

function simulated({
  trainers = 4,
  steps = 6,
  seed = 1,
  preset = 'wan',
  scenario = '',
  settings = {},
}: Case) {
  const document = {
    name: 's',
    preset,
    model: '9m',
    data: { path: 'none' },
    steps: 1000,
    seq_len: 64,
    ...settings,
  };
  const where = { workingDir: '/', homeDir: '/' };
  const config = parseRunConfig(JSON.stringify({ batch_size: 2 * trainers, ...document }), 's', where);
  const model = llamaConfigFromFields({ size: '9m' }, { vocabSize: 1000, maxPositionEmbeddings: 64 });
  const shape = buildRunShape(config, model);
  const flags = new Map<string, unknown>([
    ['trainers.count', trainers],
    ...(/flops|seconds_per_sequence/.test(scenario)
      ? []
      : [['trainers.kinds.seconds_per_sequence', 0.5] as const]),
  ]);
  const workload = workloadOf(config, shape, trainers, 8);
  const result = simulatePerformance({
    ...{
      scenario: parseScenario(scenario === '' ? null : scenario, 'test.yaml', flags),
      workload,
      steps,
      seed,
    },
    plan: planOf(config, shape, 0),
    ...{ flops: { fixed: 0, perSequence: 1e9 }, isJoining: false, stateBytes: 1e6, limitMs: 1e9 },
  });
  return { result, workload };
}

const FAST = 'coordinator: {up: 100gbit, down: 100gbit, journal_seconds: 0}\n';
const link = (up: string, rest = ''): string =>
  `trainers: {kinds: [{up: ${up}, down: 100gbit, latency_ms: 0, seconds_per_sequence: 0.5${rest}}]}\n`;

function lastStep({ steps, stuck }: PerformanceResult) {
  if (stuck !== null) throw new Error(stuck);
  return steps.at(-1)!;
}

test('over fast links a step is what its trainer computes', (t) => {
  const { result } = simulated({ scenario: FAST + link('100gbit', ', apply_seconds: 0.25') });
  const { seconds, timeLine } = lastStep(result);
  t.true(Math.abs(seconds - 1.25) < 0.05, String(seconds));
  t.is(timeLine.apply, 0.25);
  t.is(timeLine.compute, 1);
});

test('the parts of a step follow each other and are the step', (t) => {
  const { result } = simulated({ scenario: FAST + link('10mbit') });
  for (const { step, seconds, timeLine } of result.steps) {
    const sum = Object.values(timeLine).reduce((total, part) => total + part, 0);
    t.true(Math.abs(sum - seconds) < 1e-6, `step ${step}: ${sum} of ${seconds}`);
  }
});

test('slow uplinks cost what of the contribution is not hidden behind the backward pass', (t) => {
  const { result, workload } = simulated({ scenario: FAST + link('1mbit') });
  for (const { step, timeLine } of result.steps.slice(2)) {
    const bytes = workload.pieces(step).reduce((sum, { upBytes }) => sum + upBytes, 0);
    const whole = (8 * bytes) / 1e6 / (1448 / 1514);
    t.true(timeLine.upload < whole, `${timeLine.upload} of ${whole}`);
    t.true(timeLine.upload > whole - 1, `${timeLine.upload} of ${whole}`);
  }
});

test('what the coordinator receives and sends is what the traffic plan says of its trainers', (t) => {
  const { result, workload } = simulated({ trainers: 8, scenario: FAST + link('100gbit') });
  const { step, coordinator } = lastStep(result);
  const pieces = workload.pieces(step);
  t.is(coordinator.receivedBytes, 8 * pieces.reduce((sum, { upBytes }) => sum + upBytes, 0));
});

test('behind gateways the coordinator receives as often as there are gateways', (t) => {
  const direct = simulated({ trainers: 12, scenario: FAST + link('100mbit') });
  const behind = simulated({ trainers: 12, scenario: `${FAST}${link('100mbit')}gateways: {count: 3}\n` });
  const [alone, grouped] = [lastStep(direct.result), lastStep(behind.result)];
  t.is(grouped.coordinator.receivedBytes * 4, alone.coordinator.receivedBytes);
  t.is(grouped.sequences, alone.sequences);
  t.is(grouped.gateway?.receivedBytes, alone.coordinator.receivedBytes / 3);
  t.true(grouped.timeLine.gateway > 0);
});

test('with refreshes by sketches every step still ends, with gateways and without', (t) => {
  for (const gateways of [0, 2]) {
    const scenario = `${FAST}${link('100mbit')}gateways: {count: ${gateways}}\n`;
    const { result } = simulated({
      ...{ preset: 'lean', scenario, steps: 8 },
      settings: { method: { update_proj_gap: 3 } },
    });
    t.is(result.stuck, null);
    t.is(result.steps.length, 8);
  }
});

test('trainers that fail come back, and the run goes on', (t) => {
  const failures = ', failures: {every_hours: 0.01, away_seconds: {uniform: [40, 80]}, loses_state: STATE}';
  for (const state of ['true', 'false']) {
    for (const gateways of [0, 2]) {
      const kind = link('100mbit', failures.replace('STATE', state));
      const scenario = `${FAST}${kind}gateways: {count: ${gateways}}\n`;
      const { result } = simulated({ trainers: 8, steps: 40, scenario });
      t.is(result.stuck, null, `${gateways} gateways, loses_state ${state}`);
      t.true(result.failures > 3);
    }
  }
});

test('with a quorum a slow trainer is left behind', (t) => {
  const kinds = (speed: number): string =>
    `{share: 3, latency_ms: 0, seconds_per_sequence: 0.5}, {share: 1, latency_ms: 0, seconds_per_sequence: ${speed}}`;
  const scenario = `${FAST}trainers: {kinds: [${kinds(50)}]}\n`;
  const settings = { coordinator: { quorum: '50%', grace_ms: 500, step_deadline_ms: 200_000 } };
  const { result } = simulated({ trainers: 12, scenario, settings });
  const slow = simulated({ trainers: 12, scenario });
  t.true(lastStep(result).seconds < 5);
  t.true(lastStep(slow.result).seconds > 50);
});

test('the same seed gives the same run, another one another', (t) => {
  const scenario = `${FAST}trainers: {kinds: [{up: {lognormal: {median: 20mbit, sigma: 1}}, seconds_per_sequence: {uniform: [0.2, 1]}}]}\n`;
  const run = (seed: number): string => JSON.stringify(simulated({ trainers: 20, seed, scenario }).result);
  t.is(run(1), run(1));
  t.not(run(1), run(2));
});
