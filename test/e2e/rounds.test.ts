/** Rounds of local steps as sites take part in them: some at a time, with gaps, and exactly. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Link } from '../../src/cli/chaos/link.ts';
import { drawMembers } from '../../src/coordinator/core/participation.ts';
import { Galore, temporaryFolder, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 3, refresh: { stagger: false } };

for (const name of ['galore', 'two-sided', 'full']) {
  test.serial(`one local step of sgd is the synchronous step, to 1e-6: ${name}`, async (t) => {
    const optimizer = { name: 'sgd', momentum: 0, lr: 0.5 };
    const common = { model, method: { ...method, name }, optimizer, steps: 5 };
    const synchronous = new TestRun(t, tinyConfig(TEST_TEXT, { ...common, batch_size: 2 }));
    // Of the two sequences of a step each trainer gets one: it has one local step to take.
    const local = new TestRun(
      t,
      tinyConfig(TEST_TEXT, { ...common, batch_size: 1, local_steps: { count: 2 } }),
    );
    await synchronous.trainHere(2);
    await local.trainHere(2);
    const [first, wanted, got] = [synchronous.weights(0), synchronous.weights(5), local.weights(5)];
    let [moved, difference] = [0, 0];
    for (const [tensor, values] of wanted) {
      for (const [i, value] of values.entries()) {
        moved = Math.max(moved, Math.abs(value - first.get(tensor)![i]!));
        difference = Math.max(difference, Math.abs(value - got.get(tensor)![i]!));
      }
    }
    t.log(`moved by ${moved}, differ by ${difference}`);
    t.true(moved > 1e-3 && difference <= 1e-6, `moved by ${moved}, differ by ${difference}`);
  });
}

const [A, B] = ['trainer-1', 'trainer-2'] as const;
/** Who is drawn in each step, from the first. B is left out twice for two steps, and has a part before and after. */
const DRAWN = [B, A, B, A, A, B, B, A, A, B];

/** A seed with these draws of one of two trainers. */
function seedThatDraws(members: readonly string[]): number {
  for (let seed = 0; ; seed++) {
    const plan = { participation: { share: 0.5, seed }, minTrainers: 1 };
    if (members.every((id, i) => drawMembers(plan, i + 1, 0, [A, B]).members.join() === id)) return seed;
  }
}

/** A coordinator that goes on with the run up to a step, and the links of its trainers. */
async function segment(
  t: ExecutionContext,
  run: TestRun,
  {
    to,
    trainers,
    links,
  }: { readonly to: number; readonly trainers: number; readonly links: readonly Link[] },
): Promise<void> {
  const settings = ['--set', `coordinator.start_trainers=${trainers}`];
  const more = to < DRAWN.length ? ['--stop-at', String(to)] : [];
  const isFirst = run.metrics.length === 0;
  const start = isFirst ? ['coordinator', run.configPath, '--dir', run.dir] : ['resume', run.dir];
  const command = new Galore(t, [...start, ...settings, ...more]);
  const [, port] = await command.printed(/ws:\/\/127\.0\.0\.1:(\d+)\//);
  for (const link of links) link.targetPort = Number(port);
  t.is(await command.exited, 0, command.output);
  for (const link of links) link.targetPort = null;
}

test.serial(
  'a site that is cut off for two rounds, and later gone for two, ends with the weights of a run that only passed it over',
  async (t) => {
    const more = {
      local_steps: { count: 2, participation: 0.5 },
      steps: DRAWN.length,
      seed: seedThatDraws(DRAWN),
    };
    const here = { ...method, update_proj_gap: 100 };
    const config = tinyConfig(TEST_TEXT, { model, method: here, ...more });
    const straight = await new TestRun(t, config).trainHere(2);
    t.deepEqual(
      straight.metrics.map(({ members }) => members.delivered.join()),
      DRAWN,
    );

    const run = new TestRun(t, config);
    const state = join(temporaryFolder(t), 'state');
    const links = [await Link.open(), await Link.open()] as const;
    t.teardown(() => links.forEach((link) => link.close()));
    const joinAs = (id: string, link: Link): Galore =>
      new Galore(t, ['trainer', link.url, '--id', id, '--threads', '1', '--state', state]);
    const a = joinAs(A, links[0]);
    const b = joinAs(B, links[1]);
    await segment(t, run, { to: 3, trainers: 2, links });
    await segment(t, run, { to: 5, trainers: 1, links: [links[0]] });
    await segment(t, run, { to: 7, trainers: 2, links });
    b.child.kill('SIGKILL');
    await b.exited;
    await segment(t, run, { to: 9, trainers: 1, links: [links[0]] });
    const again = joinAs(B, links[1]);
    await segment(t, run, { to: 10, trainers: 2, links });
    for (const trainer of [a, again]) t.is(await trainer.exited, 0, trainer.output);

    t.deepEqual(
      run.metrics.map(({ members }) => members.delivered.join()),
      DRAWN,
    );
    t.is((await run.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
    t.regex(
      again.output,
      /goes on with what it had kept for itself after step 7 \(.*trainer-2-.*\.safetensors\)/,
    );
    t.regex(a.output + b.output, /not chosen for step/);
    for (const trainer of [a, b, again]) t.notRegex(trainer.output, /begins with zeros/);
    t.is(readdirSync(state).length, 2);
  },
);
