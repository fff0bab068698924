/** Trainers behind gateways, all of them real processes, some of which are killed. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { RunCoverage } from '../../src/coordinator/store/inspect-coverage.ts';
import {
  Galore,
  galore,
  relativeDifference,
  temporaryFolder,
  TEST_TEXT,
  TestRun,
  tinyConfig,
} from '../helpers/galore.ts';
import { pairPaths, pemPath } from '../helpers/tls.ts';

const model = { hidden_size: 32, intermediate_size: 88, num_hidden_layers: 1, num_attention_heads: 2 };
const method = { name: 'galore', rank: 8, update_proj_gap: 4, refresh: { stagger: false } };
const coordinatorOf = (trainers: number) => ({ port: 0, start_trainers: trainers, step_deadline_ms: 60_000 });

interface Started {
  readonly run: TestRun;
  readonly coordinator: Galore;
  readonly url: string;
  gateway(name: string, port?: number): Promise<{ readonly command: Galore; readonly url: string }>;
  trainer(url: string, id: string): Galore;
}

async function start(t: ExecutionContext, trainers: number, more: object): Promise<Started> {
  const coordinator = coordinatorOf(trainers);
  const run = new TestRun(t, tinyConfig(TEST_TEXT, { model, method, coordinator, ...more }));
  const command = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
  const [url] = await command.printed(/ws:\/\/127\.0\.0\.1:\d+\//);
  return {
    ...{ run, coordinator: command, url },
    gateway: async (name, port = 0) => {
      const where = ['--listen', `127.0.0.1:${port}`, '--id', name, '--dir', join(run.folder, name)];
      const gateway = new Galore(t, ['gateway', url, ...where, '--quiet']);
      const [, door] = await gateway.printed(/join here: .* (ws:\S+)/);
      return { command: gateway, url: door! };
    },
    trainer: (door, id) => new Galore(t, ['trainer', door, '--id', id, '--threads', '1']),
  };
}

test.serial(
  '2 x 2 trainers behind gateways end where 4 without do, over half of the coordinator’s traffic',
  async (t) => {
    const more = { steps: 9, evaluation: { every: 5, sequences: 16 } };
    const { run, coordinator, ...started } = await start(t, 4, more);
    const gateways = [await started.gateway('gate-1'), await started.gateway('gate-2')];
    const trainers = ['a', 'b', 'c', 'd'].map((id, i) =>
      started.trainer(gateways[Math.floor(i / 2)]!.url, id),
    );
    t.is(await coordinator.exited, 0, coordinator.output);
    for (const each of [...trainers, ...gateways.map(({ command }) => command)]) {
      t.is(await each.exited, 0, each.output);
    }
    const direct = await new TestRun(t, tinyConfig(TEST_TEXT, { model, method, ...more })).train(4);
    const weights = relativeDifference(run.weights(9), direct.weights(9));
    t.log(`weights within ${weights.toExponential(2)}`);
    t.true(weights < 1e-5);
    t.true(run.metrics.every((line) => line.trainers === 4));
    t.is(run.evaluations.length, direct.evaluations.length);
    run.evaluations.forEach(({ loss }, i) => t.true(Math.abs(loss - direct.evaluations[i]!.loss) < 1e-5));
    // Between refreshes, where nothing but the step travels.
    const [through, without] = [run.metrics[6]!, direct.metrics[6]!];
    t.true(through.bytesUp < 0.55 * without.bytesUp, `${through.bytesUp} of ${without.bytesUp}`);
    t.true(through.bytesDown < 0.55 * without.bytesDown, `${through.bytesDown} of ${without.bytesDown}`);
    const { weightsSha256 } = await run.inspect();
    for (const { output } of trainers) t.regex(output, new RegExp(`SHA-256 ${weightsSha256}`));
  },
);

test.serial(
  'a gateway and a trainer are killed: nothing is lost, nothing counted twice, all come back',
  async (t) => {
    // Without one of the three nobody goes on: so all are there at the end.
    const more = {
      steps: 60,
      checkpoint: { every: 20 },
      coordinator: { ...coordinatorOf(3), min_trainers: 3 },
    };
    const { run, coordinator, ...started } = await start(t, 3, more);
    const first = await started.gateway('gate-1');
    const second = await started.gateway('gate-2');
    const a = started.trainer(first.url, 'a');
    const b = started.trainer(first.url, 'b');
    const c = started.trainer(second.url, 'c');
    await coordinator.printed(/step 6\/60/);
    b.child.kill('SIGKILL');
    await b.exited;
    const back = started.trainer(first.url, 'b');
    await coordinator.printed(/step 30\/60/);
    first.command.child.kill('SIGKILL');
    await first.command.exited;
    const again = await started.gateway('gate-1', Number(new URL(first.url).port));
    t.is(await coordinator.exited, 0, coordinator.output);
    for (const each of [a, c, back, again.command, second.command]) t.is(await each.exited, 0, each.output);
    const { weightsSha256 } = await run.inspect();
    for (const { output } of [a, c, back])
      t.regex(output, new RegExp(`after step 60 have SHA-256 ${weightsSha256}`));
    t.regex(again.command.output, /with the state of record \d+/);
    const covered = await galore(t, 'inspect', run.dir, '--coverage', '--json');
    t.is(covered.code, 0, covered.output);
    t.deepEqual((JSON.parse(covered.output) as RunCoverage).faults, []);
    const replayed = await galore(t, 'replay', run.dir);
    t.is(replayed.code, 0, replayed.output);
    t.true(
      run.metrics.at(-1)!.members.delivered.includes('b'),
      'the trainer that was killed takes part again',
    );
  },
);

test.serial(
  'sites with data of their own behind a gateway, with tokens and TLS on both sides of it',
  async (t) => {
    const tls = pairPaths('server');
    const secrets = temporaryFolder(t);
    const [leader, site] = [join(secrets, 'leader.json'), join(secrets, 'site.json')];
    const run = new TestRun(
      t,
      tinyConfig('', {
        ...{ model, method, steps: 4, batch_size: 4, evaluation: { every: 2 } },
        data: { local: true, validation_fraction: 0.2 },
        local_steps: { count: 2, weighting: 'examples' },
        coordinator: { port: 0, start_trainers: 2, tls, auth: { tokens: leader } },
      }),
    );
    const [ours, theirs] = [join(secrets, 'ours.txt'), join(secrets, 'theirs.txt')];
    for (const [where, out] of [
      [leader, ours],
      [site, theirs],
    ] as const) {
      const { code, output } = await galore(t, 'token', 'create', where, '--role', 'trainer', '--out', out);
      t.is(code, 0, output);
    }
    const coordinator = new Galore(t, ['coordinator', run.configPath, '--dir', run.dir]);
    const [, url] = await coordinator.printed(/listening on (wss:\S+?\/);/);
    const gateway = new Galore(t, [
      ...['gateway', url!, '--id', 'gate', '--listen', '127.0.0.1:0', '--dir', join(run.folder, 'gate')],
      ...['--ca', pemPath('ca'), '--token-file', ours, '--tokens', site, '--quiet'],
      ...['--listen-cert', tls.cert, '--listen-key', tls.key],
    ]);
    const [, door] = await gateway.printed(/join here: .* (wss:\S+) --token-file/);
    const trainer = (id: string, lines: number, ...more: readonly string[]): Galore => {
      const file = join(run.folder, `${id}.jsonl`);
      const text = Array.from({ length: lines }, (_, i) => ({
        prompt: `${id} asks ${i}:`,
        completion: ` ${i + 1}`,
      }));
      writeFileSync(file, text.map((line) => JSON.stringify(line)).join('\n'));
      const how = ['--id', id, '--data', file, '--threads', '1', '--ca', pemPath('ca')];
      return new Galore(t, ['trainer', door!, ...how, ...more]);
    };
    const stranger = trainer('stranger', 20);
    t.is(await stranger.exited, 3, stranger.output);
    t.regex(stranger.output, /token/);
    const north = trainer('north', 60, '--token-file', theirs);
    const west = trainer('west', 20, '--token-file', theirs, '--share', 'counts');
    t.is(await coordinator.exited, 0, coordinator.output);
    for (const each of [north, west, gateway]) t.is(await each.exited, 0, each.output);
    for (const { members } of run.metrics) {
      t.deepEqual(members.delivered, ['north', 'west']);
      const [most = 0, least = 0] = members.weights ?? [];
      t.true(most > 2 * least && least > 1, `each counts by its examples: ${String(members.weights)}`);
    }
    t.is(run.evaluations.length, 2);
  },
);
