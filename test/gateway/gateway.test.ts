/** Real coordinator, real gateways, real sockets and files; the trainers compute nothing. */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { openNewestCheckpoint } from '../../src/coordinator/store/checkpoint.ts';
import { coverRun } from '../../src/coordinator/store/inspect-coverage.ts';
import { placeOf, type Place } from '../support/stand-in-run.ts';
import { coordinate, gatewayOf, recordsOf, Said, takePart } from '../support/stand-in-gateways.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';
import { connectRaw, HELLO, startServer, WELCOME } from '../support/wire.ts';
import { SOFTWARE } from '../../src/software.ts';

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
const EIGHT = {
  batch_size: 13,
  steps: 3,
  coordinator: { port: 0, start_trainers: 8 },
  checkpoint: { every: 1, keep: 20 },
};

interface Done {
  readonly place: Place;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

/** Eight trainers, in groups behind gateways, or without. */
async function runWith(t: ExecutionContext, gateways: number, more: object = {}): Promise<Done> {
  const place = placeOf(t, { ...EIGHT, ...more });
  const said = new Said();
  const coordinator = await coordinate(place, said);
  let isOver = false;
  const started = await Promise.all(
    Array.from({ length: gateways }, (_, i) => gatewayOf(place, coordinator, `gate-${i}`, said)),
  );
  const trainers = NAMES.map((name, i) => {
    const door = gateways === 0 ? coordinator : started[Math.floor((i * gateways) / NAMES.length)]!;
    return takePart(
      t,
      () => door.url,
      new StandInTrainer(place.run, name),
      () => isOver,
    );
  });
  await coordinator.finished;
  isOver = true;
  await Promise.all([...trainers, ...started.map(({ finished }) => finished)]);
  const sum = (numberOf: (gateway: (typeof started)[number]) => number): number =>
    started.reduce((total, gateway) => total + numberOf(gateway), 0);
  return {
    place,
    bytesSent: sum((each) => each.bytesSent),
    bytesReceived: sum((each) => each.bytesReceived),
  };
}

test.serial('eight trainers through two gateways make the records that eight without make', async (t) => {
  const direct = await runWith(t, 0);
  const through = await runWith(t, 2);
  const [a, b] = [await recordsOf(direct.place.config.dir), await recordsOf(through.place.config.dir)];
  t.is(a.length, b.length);
  let worst = 0;
  for (const [i, { commit, slots }] of a.entries()) {
    const other = b[i]!;
    t.is(other.slots.size, slots.size);
    for (const [slot, bytes] of slots) {
      const values = new Float32Array(Uint8Array.from(bytes).buffer);
      const others = new Float32Array(Uint8Array.from(other.slots.get(slot)!).buffer);
      values.forEach((value, j) => (worst = Math.max(worst, Math.abs(value - others[j]!))));
    }
    if (commit.record.type !== 'update' || other.commit.record.type !== 'update') continue;
    // The same sequences, by the same trainers.
    t.deepEqual(
      other.commit.record.members.map(({ trainerId, tokens, positions }) => ({
        trainerId,
        tokens,
        positions,
      })),
      commit.record.members,
    );
    t.deepEqual(
      other.commit.record.members.map(({ gateway }) => gateway),
      NAMES.map((_, index) => `gate-${index < 4 ? 0 : 1}`),
    );
    t.is(other.commit.record.lossSum, commit.record.lossSum);
  }
  t.log(`sums differ by ${worst.toExponential(2)} at most`);
  t.true(worst > 0, 'they are summed in another order');
  t.true(worst < 1e-6);
  t.deepEqual((await coverRun(through.place.config.dir)).faults, []);
});

test.serial('a gateway is ready while it can serve trainers, and well before', async (t) => {
  const place = placeOf(t);
  const statusOf = async ({ url }: { readonly url: string }, path: string): Promise<number> =>
    (await fetch(`${url.replace('ws:', 'http:')}${path}`)).status;
  const silent = await gatewayOf(place, await startServer(t), 'lonely', new Said());
  t.deepEqual([await statusOf(silent, 'healthz'), await statusOf(silent, 'readyz')], [200, 503]);
  silent.stop();
  await silent.finished.catch(() => {});
  const said = new Said();
  const coordinator = await coordinate(place, said);
  const gateway = await gatewayOf(place, coordinator, 'gate', said);
  const trainer = new StandInTrainer(place.run);
  const asked: Promise<number>[] = [];
  trainer.onRecord = () => {
    if (asked.length === 0) asked.push(...['readyz', 'metrics'].map((path) => statusOf(gateway, path)));
  };
  let isOver = false;
  const took = takePart(
    t,
    () => gateway.url,
    trainer,
    () => isOver,
  );
  await coordinator.finished;
  isOver = true;
  await took;
  await gateway.finished;
  t.deepEqual(await Promise.all(asked), [200, 404]);
});

test.serial(
  'a trainer that is lost behind a gateway takes only its own sequences with it, and others get them',
  async (t) => {
    const place = placeOf(t, {
      ...EIGHT,
      coordinator: { port: 0, start_trainers: 4 },
      batch_size: 8,
      steps: 4,
    });
    const said = new Said();
    const coordinator = await coordinate(place, said);
    const gateway = await gatewayOf(place, coordinator, 'gate', said);
    let isOver = false;
    const trainers = NAMES.slice(0, 4).map((name) => new StandInTrainer(place.run, name));
    let broken = 0;
    trainers[1]!.breaksOff = (step) => step === 2 && ++broken === 1;
    const running = trainers.map((trainer) =>
      takePart(
        t,
        () => gateway.url,
        trainer,
        () => isOver,
      ),
    );
    await coordinator.finished;
    isOver = true;
    await Promise.all([...running, gateway.finished]);
    t.is(broken, 1);
    const { dir } = place.config;
    const members = (await recordsOf(dir)).flatMap(({ commit: { record, step } }) =>
      record.type === 'update' && step === 2 ? record.members : [],
    );
    t.deepEqual(
      members.map(({ trainerId, positions }) => [trainerId, positions.length]),
      [
        ['a', 2],
        ['c', 2],
        ['d', 2],
      ],
    );
    t.deepEqual((await coverRun(dir)).faults, [], 'nothing is lost, nothing is counted twice');
  },
);

test.serial(
  'with its only trainer gone a gateway gives its work back, and goes on when there is one again',
  async (t) => {
    const place = placeOf(t, {
      ...EIGHT,
      coordinator: { port: 0, start_trainers: 1 },
      batch_size: 2,
      steps: 3,
    });
    const said = new Said();
    const coordinator = await coordinate(place, said);
    const gateway = await gatewayOf(place, coordinator, 'gate', said);
    const trainer = new StandInTrainer(place.run, 'a');
    let broken = 0;
    trainer.breaksOff = (step) => step === 2 && ++broken === 1;
    let isOver = false;
    const running = takePart(
      t,
      () => gateway.url,
      trainer,
      () => isOver,
    );
    const { step } = await coordinator.finished;
    isOver = true;
    await Promise.all([running, gateway.finished]);
    t.is(step, 3);
    t.is(trainer.snapshots, 1, 'it came back with what it held');
    t.true(said.lines.some((line) => line.includes('no trainer')));
    t.deepEqual((await coverRun(place.config.dir)).faults, []);
  },
);

test.serial('a gateway that is started again goes on with what is on its disk', async (t) => {
  const place = placeOf(t, {
    ...EIGHT,
    coordinator: { port: 0, start_trainers: 1 },
    batch_size: 2,
    steps: 6,
  });
  const said = new Said();
  const coordinator = await coordinate(place, said);
  let gateway = await gatewayOf(place, coordinator, 'gate', said);
  const trainer = new StandInTrainer(place.run, 'a');
  let isOver = false;
  let hasStopped = false;
  const stopped = new Promise<void>((resolve) => {
    trainer.onRecord = (sequence) => {
      if (sequence !== 4 || hasStopped) return;
      hasStopped = true;
      gateway.stop();
      resolve();
    };
  });
  const running = takePart(
    t,
    () => gateway.url,
    trainer,
    () => isOver,
  );
  await stopped;
  t.is((await gateway.finished).code, 0);
  gateway = await gatewayOf(place, coordinator, 'gate', said);
  await coordinator.finished;
  isOver = true;
  await Promise.all([running, gateway.finished]);
  t.true(said.lines.some((line) => /joined run \S+ with the state of record [4-9]/.test(line)));
  t.is(trainer.snapshots, 1);
  t.deepEqual((await coverRun(place.config.dir)).faults, []);
});

test.serial(
  'who joins behind a gateway is told which step counted it last, for what it has kept itself',
  async (t) => {
    const place = placeOf(t, {
      ...EIGHT,
      coordinator: { port: 0, start_trainers: 1 },
      batch_size: 2,
      steps: 8,
    });
    const said = new Said();
    const coordinator = await coordinate(place, said);
    const gateway = await gatewayOf(place, coordinator, 'gate', said);
    const trainer = new StandInTrainer(place.run, 'a');
    let isOver = false;
    /** As somebody of this name, who holds no state. */
    const countedStepOf = async (trainerId: string): Promise<number | undefined> => {
      const raw = await connectRaw(t, gateway.url);
      raw.send({ ...HELLO, trainerId });
      const welcome = await raw.messages.takeWhere(({ kind }) => kind === 'welcome');
      raw.webSocket.terminate();
      return welcome.kind === 'welcome' ? welcome.snapshot?.countedStep : undefined;
    };
    // The run stands still meanwhile.
    const told: Promise<number | undefined>[] = [];
    trainer.breaksOff = (step) => {
      if (step < 5 || told.length > 0) return false;
      told.push(countedStepOf('z'));
      return true;
    };
    const running = takePart(
      t,
      () => gateway.url,
      trainer,
      () => isOver,
    );
    await coordinator.finished;
    isOver = true;
    await Promise.all([running, gateway.finished]);
    t.deepEqual(await Promise.all(told), [0], 'it never was');
    const checkpoint = await openNewestCheckpoint(join(place.folder, 'gate', 'checkpoints'), () => {});
    const { counted, step } = checkpoint!.run;
    await checkpoint!.close();
    t.true(step > 0);
    t.deepEqual(counted, { a: step });
  },
);

test.serial(
  'a run that needs each contribution takes no gateway and says which setting that is',
  async (t) => {
    const aggregation = { rule: 'median' };
    const place = placeOf(t, {
      ...EIGHT,
      coordinator: { port: 0, min_trainers: 3, start_trainers: 3, aggregation },
    });
    const said = new Said();
    const coordinator = await coordinate(place, said);
    const { code, reason } = await (await gatewayOf(place, coordinator, 'gate', said)).finished;
    t.is(code, 3);
    t.regex(reason, /takes no gateways: coordinator\.aggregation\.rule: median needs/);
    coordinator.stop();
    coordinator.stop();
    await coordinator.finished;
  },
);

test.serial(
  'gateway and coordinator of different versions refuse each other and say which they are',
  async (t) => {
    const place = placeOf(t, EIGHT);
    const said = new Said();
    const coordinator = await coordinate(place, said);
    const old = await connectRaw(t, coordinator.url);
    old.send({ ...HELLO, isGateway: true, software: 'galore-swarm 0.0.1' });
    const { code, reason } = await old.closed;
    t.is(code, 4001);
    t.is(
      reason,
      `the gateway is galore-swarm 0.0.1, this coordinator ${SOFTWARE}: both must be of one version`,
    );
    coordinator.stop();
    coordinator.stop();
    await coordinator.finished;

    const server = await startServer(t);
    server.onMessage = (connection, message) => {
      if (message.kind === 'hello') connection.send({ ...WELCOME, software: 'galore-swarm 9.9.9' });
    };
    const ended = await (await gatewayOf(place, { url: server.url }, 'gate', said)).finished;
    t.is(ended.code, 3);
    t.regex(ended.reason, /the coordinator is galore-swarm 9\.9\.9, this gateway galore-swarm /);
  },
);

test('a gateway does not listen beyond this machine without tokens and TLS', async (t) => {
  const listen = { host: '0.0.0.0', port: 0 };
  const said = new Said();
  const place = placeOf(t, EIGHT);
  await t.throwsAsync(gatewayOf(place, { url: 'ws://127.0.0.1:9/' }, 'gate', said, { listen }), {
    message: /--listen 0\.0\.0\.0 can be reached from other machines: .*--tokens FILE\.json.*--listen-cert/,
  });
});

test('a gateway that fails says so, though it leaves in good order', async (t) => {
  const place = placeOf(t, EIGHT);
  const said = new Said();
  const coordinator = await coordinate(place, said);
  const failure = new Error('the log cannot be written');
  const logger = {
    ...said.logger,
    info: (...line: Parameters<typeof said.logger.info>) => {
      if (line[0] === 'gateway.note') throw failure;
      said.logger.info(...line);
    },
  };
  let serves = (): void => {};
  let isAlone = (): void => {};
  const serving = new Promise<void>((resolve) => (serves = resolve));
  const alone = new Promise<void>((resolve) => (isAlone = resolve));
  const gateway = await gatewayOf(place, coordinator, 'gate', said, {
    logger,
    onActivity: (text) => {
      if (text.startsWith('has the state')) serves();
      if (text.startsWith('the gateway is not connected')) isAlone();
    },
  });
  await serving;
  const raw = await connectRaw(t, gateway.url);
  raw.send({ ...HELLO });
  await raw.messages.takeWhere(({ kind }) => kind === 'welcome');
  coordinator.stop();
  coordinator.stop();
  await Promise.all([coordinator.finished, alone]);
  raw.webSocket.terminate();
  t.is(await t.throwsAsync(gateway.finished), failure);
});
