/** Real coordinator, real gateways, real sockets and files; the trainers compute nothing. */
import test, { type ExecutionContext } from 'ava';
import { coverRun } from '../../src/coordinator/store/inspect-coverage.ts';
import { placeOf, type Place } from '../support/stand-in-run.ts';
import { coordinate, gatewayOf, recordsOf, Said, takePart } from '../support/stand-in-gateways.ts';
import { StandInTrainer } from '../support/stand-in-trainer.ts';

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
  if (process.env['SAID']) console.log(said.lines.join(''));
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
      other.commit.record.members.map(({ gateway: _, ...member }) => member),
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
