/** `galore plan run.yaml`: what a run will send and keep, before it starts. */
import { InvalidArgumentError, type Command } from 'commander';
import { checkTargets } from '../coordinator/check-targets.ts';
import { newModel } from '../coordinator/new-run.ts';
import { trafficPlan, type PlannedBytes, type TrafficPlan } from '../coordinator/traffic-plan.ts';
import type { RunConfig } from '../config/schema.ts';
import { byteTokenizer, loadTokenizer } from '../files/tokenizer.ts';
import type { ModelConfig } from '../model/model-config.ts';
import { buildRunShape, type RunShape } from '../run-shape.ts';
import { bitsPerSecond } from '../simulation/scale/scenario.ts';
import type { CliContext } from './context.ts';
import { EXIT_CODES } from './exit-codes.ts';
import { formatBytes, formatCount, table } from './format.ts';
import { debugOption, OverrideList } from './options.ts';
import { prepareNewRun } from './run-file.ts';

interface PlanFlags {
  readonly bandwidth: number;
  readonly up?: number;
  readonly down?: number;
  readonly json?: true;
}

/** Adds the command; `finish` takes its exit code. */
export function registerPlanCommand(
  program: Command,
  context: CliContext,
  finish: (code: number) => void,
): void {
  const overrides = new OverrideList();
  const command = program
    .command('plan')
    .argument('<run.yaml>', 'the run; docs/configuration.md has every field')
    .summary('say what a run will send and keep, without starting it')
    .description(
      'Computes bytes of a trainer in the mean step of the run, refreshes included, seconds to send and\n' +
        'receive them, and memory. Reads the file and nothing else but a tokenizer or model it names.',
    );
  overrides.addTo(command);
  command
    .option(
      '--trainers <k>',
      'trainers that share a step (coordinator.start_trainers)',
      overrides.flag('--trainers', 'coordinator.start_trainers'),
    )
    .option('--bandwidth <rate>', 'of the link of a trainer, both ways, such as 100mbit', rate, 100e6)
    .option('--up <rate>', 'what it sends with; default: --bandwidth', rate)
    .option('--down <rate>', 'what it receives with; default: --bandwidth', rate)
    .option('--json', 'print one JSON object')
    .addOption(debugOption())
    .addHelpText(
      'after',
      '\nExamples:\n  galore plan run.yaml --bandwidth 100mbit\n' +
        '  galore plan run.yaml --set preset=wan --up 20mbit --down 100mbit --json',
    );
  command.action(async (file: string, flags: PlanFlags) => {
    const { config } = prepareNewRun(context, file, overrides.list, () => 0);
    const plan = await planOfRun(config);
    const rates = { up: flags.up ?? flags.bandwidth, down: flags.down ?? flags.bandwidth };
    const text = flags.json ? JSON.stringify(asJson(plan, rates)) : asLines(config, plan, rates).join('\n');
    context.stdout.write(`${text}\n`);
    finish(EXIT_CODES.OK);
  });
}

/** The plan of a run whose data has not been read: a tokenizer that is yet to be trained has the tokens it is to have. */
export async function planOfRun(config: RunConfig): Promise<TrafficPlan> {
  const { shape } = await shapeOfRun(config);
  return trafficPlan(config, shape, config.coordinator.start_trainers);
}

/** The same run's model and shape. */
export async function shapeOfRun(config: RunConfig): Promise<{ model: ModelConfig; shape: RunShape }> {
  const model = await newModel(config, { vocabSize: vocabularyOf(config), eosId: null });
  const shape = buildRunShape(config, model);
  checkTargets(config, shape, model);
  return { model, shape };
}

function vocabularyOf({ model, tokenizer }: RunConfig): number {
  if (model.path !== undefined || model.vocab_size !== undefined) return model.vocab_size ?? 1;
  if (tokenizer.type === 'bpe') return tokenizer.vocab_size;
  return (tokenizer.path === undefined ? byteTokenizer() : loadTokenizer(tokenizer.path)).vocabSize;
}

/** `100mbit` in bits a second. */
export function rate(text: string): number {
  const bits = bitsPerSecond(text);
  if (bits === null) {
    throw new InvalidArgumentError(
      'It must be a number above 0 with its unit: bit, kbit, mbit or gbit (a second), such as 100mbit.',
    );
  }
  return bits;
}

/** Up and down follow each other: nobody receives an update before all have sent. */
function secondsOf({ up, down }: PlannedBytes, rates: PlannedBytes): number {
  return (8 * up) / rates.up + (8 * down) / rates.down;
}

function asJson(plan: TrafficPlan, rates: PlannedBytes): object {
  const dense = { up: plan.denseBytes, down: plan.denseBytes };
  const seconds = { run: secondsOf(plan.total, rates), dense: secondsOf(dense, rates) };
  return { ...plan, perOptimizerStep: perOptimizerStep(plan), bitsPerSecond: rates, secondsPerStep: seconds };
}

const ROWS_ARE_FEWER = ['row-sparse is the most it can be, with no token twice in a batch; text has fewer'];

function asLines(config: RunConfig, plan: TrafficPlan, rates: PlannedBytes): string[] {
  const { parameters, policies, contribution, update, refresh, data, total, denseBytes, ratio } = plan;
  const { trainerMemory: memory, localSteps } = plan;
  const bytes = ({ up, down }: PlannedBytes): string[] => [formatBytes(up), formatBytes(down)];
  const rows = [
    ...policies.map(({ policy, tensors, parameters: numbers, ranks, up, down }) => [
      policy,
      String(tensors),
      formatCount(numbers),
      ranks === null ? '-' : ranks[0] === ranks[1] ? String(ranks[0]) : `${ranks[0]} to ${ranks[1]}`,
      ...bytes({ up, down }),
    ]),
    ['refresh', '', '', '', ...bytes(refresh)],
    ['data', '', '', '', ...bytes({ up: 0, down: data })],
    ['messages', '', '', '', ...bytes(messagesOf(plan, contribution, update))],
    ['total', '', formatCount(parameters), '', ...bytes(total)],
    ...(localSteps === 1 ? [] : [['an optimizer step', '', '', '', ...bytes(perOptimizerStep(plan))]]),
    ['dense f32', '', '', '', ...bytes({ up: denseBytes, down: denseBytes })],
    ['times less', '', '', '', ratio.up.toFixed(1), ratio.down.toFixed(1)],
  ];
  const dense = { up: denseBytes, down: denseBytes };
  const seconds = [plan.total, dense].map((way) => `${secondsOf(way, rates).toPrecision(3)} s`);
  const { preset, method, wire } = config;
  return [
    `method:   ${method.name}, codec ${wire.codec}${preset === undefined ? '' : `, preset ${preset}`}`,
    `run:      ${plan.steps} steps${ofHow(localSteps)}, ${plan.trainers} trainers${ofWhom(config)} in the mean step`,
    '',
    ...table([['policy', 'tensors', 'parameters', 'rank', 'sends', 'receives'], ...rows]),
    ...(policies.some(({ policy }) => policy === 'row-sparse') ? ROWS_ARE_FEWER : []),
    '',
    `transfer: ${seconds[0]} a step at ${mbit(rates.up)} up, ${mbit(rates.down)} down; dense f32 ${seconds[1]}`,
    `trainer:  ${formatBytes(memory.total)}: weights ${formatBytes(memory.weights)}, optimizer ${formatBytes(memory.optimizer)}, ` +
      `bases ${formatBytes(memory.bases)}, feedback ${formatBytes(memory.feedback)}; gradients and activations come on top`,
    `coordinator: ${formatBytes(plan.coordinatorStaging)} of contributions and their sum`,
  ];
}

/** With local steps a step is several. */
function perOptimizerStep({ total, localSteps }: TrafficPlan): PlannedBytes {
  return { up: total.up / localSteps, down: total.down / localSteps };
}

/** With participation a trainer that has no part in a step only receives. */
function ofWhom({ local_steps: { participation } }: RunConfig): string {
  if (participation === 1) return '; below: one trainer';
  return `, ${Number((100 * participation).toPrecision(3))} % of them in a step; below: one that takes part,`;
}

function ofHow(localSteps: number): string {
  return localSteps === 1 ? '' : ` of ${localSteps} optimizer steps each`;
}

/** What ends a contribution and an update. */
function messagesOf({ policies }: TrafficPlan, contribution: number, update: number): PlannedBytes {
  const sent = policies.reduce((sum, { up, down }) => ({ up: sum.up + up, down: sum.down + down }), {
    up: 0,
    down: 0,
  });
  return { up: contribution - sent.up, down: update - sent.down };
}

function mbit(bits: number): string {
  return `${Number((bits / 1e6).toPrecision(3))} Mbit/s`;
}
