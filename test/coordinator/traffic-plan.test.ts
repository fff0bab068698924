import test from 'ava';
import { refreshCounts, refreshSlots } from '../../src/coordinator/core/refresh-schedule.ts';
import { trafficPlan, type TrafficPlan } from '../../src/coordinator/traffic-plan.ts';
import { planNotice } from '../../src/coordinator/traffic-notice.ts';
import { RUN_PRESETS } from '../../src/config/run-presets.ts';
import { llamaConfigFromFields } from '../../src/model/llama-config.ts';
import { buildRunShape } from '../../src/run-shape.ts';
import { MINIMAL, resolve } from '../config/parse.ts';
import { tinyRun } from './tiny-run.ts';

function plan60m(...settings: readonly string[]): TrafficPlan {
  const config = resolve(MINIMAL, 'steps=2400', 'batch_size=4', 'seq_len=256', ...settings);
  const model = llamaConfigFromFields({ size: '60m' }, { vocabSize: 32_000, maxPositionEmbeddings: 256 });
  return trafficPlan(config, buildRunShape(config, model), 2);
}

test('refreshes are counted as the schedule has them', (t) => {
  for (const isStaggered of [false, true]) {
    for (const updateProjGap of [1, 3, 7]) {
      const gaps = { updateProjGap, isStaggered, lazyThreshold: null, convergedRatio: null };
      const plan = { ...gaps, projectedSlots: [2, 5, 6, 9] };
      for (const steps of [1, 2, 6, 20]) {
        const times = plan.projectedSlots.map(() => 0);
        for (let step = 1; step <= steps; step++) {
          for (const slot of refreshSlots(plan, step)) times[plan.projectedSlots.indexOf(slot)]! += 1;
        }
        t.deepEqual(refreshCounts(plan, steps), times, `T ${updateProjGap}, ${steps} steps, ${isStaggered}`);
      }
    }
  }
});

test('the bytes of presets at 60M keep what their names promise', (t) => {
  const [exact, lean, balanced, wan, extreme, local] = RUN_PRESETS.map((name) => plan60m(`preset=${name}`));
  const least = ({ ratio }: TrafficPlan): number => Math.min(ratio.up, ratio.down);
  t.true(least(exact!) > 0.99 && least(exact!) < 1);
  t.true(least(lean!) > 4);
  t.true(least(balanced!) >= 30, `balanced: ${least(balanced!)}`);
  t.true(least(wan!) >= 60, `wan: ${least(wan!)}`);
  t.true(least(extreme!) >= 250, `extreme: ${least(extreme!)}`);
  t.true(least(local!) > 7 * least(lean!), `local: ${least(local!)}`);
});

test('memory: 16 bytes a number of AdamW are 12 without the gradient, power keeps two of one byte', (t) => {
  const { parameters, trainerMemory } = plan60m('preset=exact');
  t.deepEqual(trainerMemory, {
    weights: 4 * parameters,
    optimizer: 8 * parameters,
    bases: 0,
    feedback: 0,
    total: 12 * parameters,
  });
  const power = plan60m('preset=balanced').trainerMemory;
  t.true(power.feedback / parameters > 1 && power.feedback / parameters < 1.03);
  t.true(power.optimizer / parameters > 1 && power.optimizer / parameters < 1.03);
});

test('whole gradients cost a byte a number of the matrices that are projected, and none on the wire', (t) => {
  const groups = 'param_groups: [{match: [attn, mlp], feedback: gradient}]';
  const [none, kept, exact] = [
    'method={}',
    `method={${groups}}`,
    `method={${groups}, feedback_dtype: f32}`,
  ].map((settings) => plan60m(settings));
  const { parameters } = kept!.policies.find(({ policy }) => policy === 'one-sided')!;
  t.is(none!.trainerMemory.feedback, 0);
  t.is(exact!.trainerMemory.feedback, 4 * parameters);
  const bytes = kept!.trainerMemory.feedback / parameters;
  t.true(bytes > 1 && bytes < 1.03, `${bytes}`);
  // Nothing of it is bound to a basis: no slot is flushed before a refresh.
  const int4 =
    'method={update_proj_gap: 10, param_groups: [{match: [mlp], codec: int4, feedback: FEEDBACK}]}';
  const [unkept, whole] = ['none', 'gradient'].map((feedback) => plan60m(int4.replace('FEEDBACK', feedback)));
  t.is(whole!.contribution, unkept!.contribution);
  t.is(whole!.update, unkept!.update);
});

test('local steps: bytes are those of an exchange, dense f32 those of all optimizer steps; weights are kept twice', (t) => {
  const [none, four] = ['1', '4'].map((count) => plan60m('method.name=full', `local_steps.count=${count}`));
  t.is(four!.contribution, none!.contribution);
  t.is(four!.localSteps, 4);
  t.is(four!.denseBytes, 4 * none!.denseBytes);
  t.true(four!.data > 3.9 * none!.data, 'the sequences of four steps');
  const { parameters, trainerMemory } = four!;
  // Of 4 bytes a number: shared weights, working copy, displacement; two moments of the trainer's own.
  const counts = none!.policies[0]!.tensors;
  t.is(trainerMemory.weights, 12 * parameters);
  t.is(trainerMemory.optimizer, 8 * parameters + 4 * counts);
  t.is(trainerMemory.feedback, 0);
});

test('moments that are averaged count in the exchanges in which they travel, in bf16 where payloads are rounded', (t) => {
  const plan = (...settings: string[]) =>
    plan60m('method.name=full', ...settings.filter((setting) => setting !== ''));
  const bytes = (steps: number, codec: string, more: string): number =>
    plan(`steps=${steps}`, `wire.codec=${codec}`, `local_steps={count: 4${more}}`).update;
  const often = ', moments: averaged, moment_periods: [3, 6]';
  const f32 = (steps: number): number => bytes(steps, 'f32', often) / bytes(steps, 'f32', '');
  t.true(Math.abs(f32(600) - (4 + 2 + 3) / 6) < 1e-4, `${f32(600)}`);
  t.true(Math.abs(f32(5) - 6 / 5) < 1e-4, 'of five steps one has first moments');
  t.is(f32(2), 1);
  const int8 = bytes(600, 'int8', often) / bytes(600, 'int8', '');
  const eight = 1 + 4 / 256;
  t.true(Math.abs(int8 - (4 * eight + 2 * 2 + 2 * 3) / 6 / eight) < 1e-3, `${int8}`);
  const [local, averaged] = ['', ', moments: averaged'].map((more) => plan(`local_steps={count: 4${more}}`));
  t.deepEqual(averaged!.trainerMemory, local!.trainerMemory);
  t.true(averaged!.coordinatorStaging > 5 * local!.coordinatorStaging, 'that of the largest exchange');
});

test('a slot that is flushed before a refresh pays for it, one without feedback does not', (t) => {
  const group = 'method.param_groups=[{match: [mlp], codec: int4, feedback: FEEDBACK}]';
  const [none, kept] = ['none', 'payload'].map((feedback) =>
    plan60m('method.update_proj_gap=10', group.replace('FEEDBACK', feedback)),
  );
  t.true(kept!.contribution > 1.01 * none!.contribution);
  t.is(kept!.update, none!.update);
});

test('row-sparse counts as many rows as there are tokens: of the trainer up, of the step down', (t) => {
  const plan = plan60m(
    'wire.codec=f32',
    'method={name: full, param_groups: [{match: [embed_tokens], policy: row-sparse}]}',
  );
  const { up, down, ranks, parameters } = plan.policies.find(({ policy }) => policy === 'row-sparse')!;
  t.is(ranks, null);
  t.is(parameters, 32_000 * 512);
  // 4 sequences of 256 tokens, half of them of each of two trainers; the Parts' headers come on top.
  const row = 4 * 512 + 4;
  t.true(up >= 4 + 512 * row && up < 1.001 * 512 * row, `${up}`);
  t.true(down >= 4 + 1024 * row && down < 1.001 * 1024 * row, `${down}`);
  t.is(plan.trainerMemory.total, 12 * plan.parameters);
});

test('more trainers share the sums of a refresh and the data, not what each sends', (t) => {
  const { config, shape } = tinyRun();
  const [one, four] = [trafficPlan(config, shape, 1), trafficPlan(config, shape, 4)];
  t.is(one.contribution, four.contribution);
  t.true(four.refresh.down < one.refresh.down && four.data < one.data);
  t.true(four.coordinatorStaging > 2 * one.coordinatorStaging);
});

test('the notice says it in one line', (t) => {
  t.regex(
    planNotice(plan60m('preset=balanced')),
    /^a trainer sends 6\.8 MB a step \(34x less than dense f32\), receives 6\.8 MB \(34x .*\) and keeps 40\d MB; more: galore plan$/,
  );
});
