/** What passes through a gateway: records down, held-out sequences down and their losses up, the state up. */
import test from 'ava';
import type { CheckpointDesk } from '../../src/coordinator/checkpoint-desk.ts';
import { HeldOut } from '../../src/gateway/held-out.ts';
import { RecordRelay } from '../../src/gateway/record-relay.ts';
import { SnapshotRelay } from '../../src/gateway/snapshot-relay.ts';
import type { CommitMessage, PartMessage, Sequences } from '../../src/protocol/messages.ts';
import type { OutgoingMessage } from '../../src/trainer/link.ts';
import { HeardSession } from '../support/heard-session.ts';

const PART = { kind: 'part', stream: 'update' } as PartMessage;
const COMMIT = { kind: 'commit', sequence: 5, step: 5 } as CommitMessage;
const frame = (byte: number): Uint8Array => Uint8Array.of(byte);

function relayTo(...sessions: readonly HeardSession[]) {
  const stored: number[][] = [];
  const append = async (frames: readonly Uint8Array[]): Promise<void> => {
    stored.push(frames.map(([first]) => first!));
  };
  const heard = async (): Promise<unknown> => {
    for (const session of sessions) await session.settled();
    return sessions.map((session) => session.heard);
  };
  return { relay: new RecordRelay({ append }, () => sessions), stored, heard };
}

test('Parts of a record go on as they come, the rest once it is on disk, and all of it to the disk', async (t) => {
  const { relay, stored, heard } = relayTo(new HeardSession('a', 4), new HeardSession('b', null));
  relay.take(PART, frame(1));
  relay.take(PART, frame(2));
  relay.take(COMMIT, frame(3));
  t.deepEqual(await heard(), [[1, 2], []]);
  await relay.end(COMMIT);
  t.deepEqual(stored, [[1, 2, 3]]);
  t.deepEqual(await heard(), [[1, 2, 3], []]);
});

test('of a record that is withdrawn nothing is kept, and it comes anew', async (t) => {
  const { relay, stored, heard } = relayTo(new HeardSession('a', 4));
  relay.take(PART, frame(1));
  relay.take({ kind: 'updateWithdrawn', step: 5 }, frame(0));
  relay.take(PART, frame(2));
  relay.take(COMMIT, frame(3));
  await relay.end(COMMIT);
  t.deepEqual(stored, [[2, 3]]);
  t.deepEqual(await heard(), [[1, { kind: 'updateWithdrawn', step: 5 }, 2, 3]]);
});

test('a record that breaks off ends the connections of those who have a part of it', async (t) => {
  const { relay, stored, heard } = relayTo(new HeardSession('a', 4), new HeardSession('b', 5));
  const idle = relayTo(new HeardSession('c', 4));
  relay.take(PART, frame(1));
  t.deepEqual(await heard(), [[1], [1]]);
  relay.breakOff('cut');
  idle.relay.breakOff('cut');
  t.deepEqual(await heard(), [
    [1, 'COORDINATOR_STOPPING'],
    [1, 'COORDINATOR_STOPPING'],
  ]);
  t.deepEqual(await idle.heard(), [[]]);
  relay.take(COMMIT, frame(3));
  await relay.end(COMMIT);
  t.deepEqual(stored, [[3]], 'what came before is forgotten');
});

const HELD_OUT: Sequences = {
  positions: [10, 11, 12],
  length: 2,
  tokens: Int32Array.of(1, 2, 3, 4, 5, 6),
  mask: new Uint8Array(0),
};

test('a trainer gets its held-out sequences, and may declare no more tokens than they have', async (t) => {
  const facts: object[] = [];
  const heldOut = new HeldOut(1, (fact) => facts.push(fact));
  const session = new HeardSession('a', 4);
  const job = heldOut.keep(HELD_OUT, []);
  const share = { type: 'assignEvaluation', trainerId: 'a', job, step: 7 } as const;
  heldOut.assign({ ...share, sequences: [0, 2] }, session);
  heldOut.assign({ ...share, sequences: [1] }, session);
  await session.settled();
  t.like(session.heard[0], { sequences: { positions: [10, 12], tokens: Int32Array.of(1, 2, 5, 6) } });
  const answer = { kind: 'evaluation', step: 7, lossSum: 3 } as const;
  heldOut.accept('a', { ...answer, tokens: 2 });
  t.deepEqual(facts, [{ type: 'evaluationReceived', trainerId: 'a', step: 7, tokens: 2, lossSum: 3 }]);
  const tooMany = { message: /2 tokens are declared for the evaluation of step 7 but only 1 were assigned/ };
  t.throws(() => heldOut.accept('a', { ...answer, tokens: 2 }), tooMany);
  t.throws(() => heldOut.accept('a', { ...answer, tokens: 1 }), { message: /only 0 were assigned/ });
});

test('jobs that are under way keep their sequences when more come, also when others were given up', async (t) => {
  const heldOut = new HeldOut(1, () => {});
  const session = new HeardSession('a', 4);
  heldOut.keep(null, []); // given up
  const first = heldOut.keep({ ...HELD_OUT, positions: [20, 21, 22] }, []);
  const second = heldOut.keep(HELD_OUT, [{ job: first }]);
  for (const job of [first, second]) {
    heldOut.assign({ type: 'assignEvaluation', trainerId: 'a', job, step: 7, sequences: [0] }, session);
  }
  await session.settled();
  t.like(session.heard[0], { sequences: { positions: [20] } });
  t.like(session.heard[1], { sequences: { positions: [10] } });
});

test('a state that is asked for anew ends the one that is being sent, and each is ended once', async (t) => {
  const sent: OutgoingMessage[] = [];
  let goOn = (): void => {};
  const opened = new Promise<void>((resolve) => (goOn = resolve));
  const checkpoint = { tensors: [], close: async () => {} };
  const relay = new SnapshotRelay({
    slots: [],
    checkpoints: {
      openNewest: () => opened.then(() => checkpoint),
      request: () => {},
    } as unknown as CheckpointDesk,
    mirror: { bases: [], ranks: new Map(), counted: null },
    link: { send: (message) => sent.push(message), sendTensor: () => t.fail(), drained: async () => {} },
  });
  const end = (step: number): object => ({ kind: 'snapshotEnd', step, sequence: step, tensors: [] });
  const sending = relay.send({ step: 3, sequence: 3 });
  relay.request({ type: 'requestSnapshot', trainerId: 'a', step: 4, sequence: 4 }, undefined);
  t.deepEqual(sent, [end(3)]);
  goOn();
  await sending;
  t.deepEqual(sent, [end(3)]);
  await relay.send({ step: 5, sequence: 5 });
  t.deepEqual(sent, [end(3), end(5)]);
  const cut = relay.send({ step: 6, sequence: 6 });
  relay.breakOff();
  await cut;
  t.is(sent.length, 2, 'nobody is there to be told');
});
