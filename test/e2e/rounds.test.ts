/** Rounds of local steps as sites take part in them: some at a time, with gaps, and exactly. */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Link } from '../../src/cli/chaos/link.ts';
import { drawMembers } from '../../src/coordinator/core/participation.ts';
import { Galore, temporaryFolder, TEST_TEXT, TestRun, tinyConfig } from '../helpers/galore.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 3, refresh: { stagger: false } };

for (const name of ['galore', 'full']) {
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

const IDS = ['a', 'b', 'c'] as const;
/** Steps for which b is drawn; from the others it is left out, of which it is gone in 4 and 5, and in 8 and 9. */
const WITH_B = [3, 6, 7, 10];
const GONE = [4, 5, 8, 9];
const STEPS = 10;
const SHARE = 0.6; // two of three, and two of two

/** A seed by which b is drawn in these steps. */
function fittingSeed(): number {
  for (let seed = 0; ; seed++) {
    const plan = { participation: { share: SHARE, seed }, minTrainers: 1 };
    const hasB = (step: number): boolean => drawMembers(plan, step, 0, IDS).members.includes('b');
    if (WITH_B.every(hasB) && !GONE.some(hasB)) return seed;
  }
}

/** Lines of text of a site's own. */
function siteFile(t: ExecutionContext, site: number): string {
  const path = join(temporaryFolder(t), 'site.jsonl');
  const lines = Array.from({ length: 30 + 20 * site }, (_, i) =>
    JSON.stringify({ prompt: `site ${site}, ${i * i}:`, completion: ` ${(i * 7 + site) % 13} and ${i % 5}` }),
  );
  writeFileSync(path, lines.join('\n'));
  return path;
}

/** A coordinator that begins the run or goes on with it, and the links on which trainers find it. */
async function segment(
  t: ExecutionContext,
  run: TestRun,
  links: readonly Link[],
  ...settings: readonly string[]
): Promise<void> {
  const start =
    run.metrics.length === 0 ? ['coordinator', run.configPath, '--dir', run.dir] : ['resume', run.dir];
  const trainers = ['--set', `coordinator.start_trainers=${links.length}`];
  const command = new Galore(t, [...start, ...trainers, ...settings]);
  const [, port] = await command.printed(/ws:\/\/127\.0\.0\.1:(\d+)\//);
  for (const link of links) link.targetPort = Number(port);
  t.is(await command.exited, 0, command.output);
  for (const link of links) link.targetPort = null;
}

test.serial(
  'a site that is cut off for two rounds, and later gone for two, ends with the weights of a run that only passed it over',
  async (t) => {
    const config = tinyConfig('', {
      model,
      // New bases in steps 1 and 7: what b keeps moves into them.
      method: { ...method, update_proj_gap: 6 },
      data: { local: true, validation_fraction: 0.1 },
      local_steps: { count: 2, participation: SHARE },
      coordinator: { port: 0, sharding: 'examples' },
      batch_size: 4,
      steps: STEPS,
      seed: fittingSeed(),
    });
    const files = IDS.map((_, i) => siteFile(t, i));
    const links = await Promise.all(IDS.map(() => Link.open()));
    t.teardown(() => links.forEach((link) => link.close()));
    const site = (i: number, ...more: readonly string[]): Galore => {
      const named = ['--id', IDS[i]!, '--data', files[i]!, '--threads', '1'];
      return new Galore(t, ['trainer', links[i]!.url, ...named, ...more]);
    };
    const membersOf = ({ metrics }: TestRun) => metrics.map(({ members }) => members.delivered.join(''));

    const straight = new TestRun(t, config);
    const sites = IDS.map((_, i) => site(i));
    await segment(t, straight, links);
    for (const each of sites) t.is(await each.exited, 0, each.output);
    for (const step of GONE) t.is(membersOf(straight)[step - 1], 'ac');
    const examples = sites.map(({ output }) => Number(/(\d+) examples to train on/.exec(output)?.[1]));
    for (const { members } of straight.metrics) {
      const wanted = members.delivered.map((id) => examples[IDS.indexOf(id as 'a')]!);
      t.deepEqual(members.weights, wanted, 'contributions count by the examples of their site');
    }

    const run = new TestRun(t, config);
    const state = ['--state', join(temporaryFolder(t), 'state')];
    const [a, b, c] = [site(0, ...state), site(1, ...state), site(2, ...state)];
    const others = [links[0]!, links[2]!];
    await segment(t, run, links, '--stop-at', '3');
    await segment(t, run, others, '--stop-at', '5');
    await segment(t, run, links, '--stop-at', '7');
    b.child.kill('SIGKILL');
    await b.exited;
    await segment(t, run, others, '--stop-at', '9');
    const again = site(1, ...state);
    await segment(t, run, links);
    for (const each of [a, c, again]) t.is(await each.exited, 0, each.output);

    t.deepEqual(membersOf(run), membersOf(straight));
    t.is((await run.inspect()).weightsSha256, (await straight.inspect()).weightsSha256);
    t.regex(again.output, /goes on with what it had kept for itself after step 7 \(.*b-.*\.safetensors\)/);
    t.regex(a.output + c.output, /not chosen for step/);
    for (const each of [a, b, c, again]) t.notRegex(each.output, /begins with zeros/);
    t.is(readdirSync(state[1]!).length, 3);
  },
);
