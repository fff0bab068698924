/** The gateway's rules, without sockets, files or clock. */
import test, { type ExecutionContext } from 'ava';
import { advanceGateway, initialGateway } from '../../src/gateway/core/advance-gateway.ts';
import type {
  GatewayEffect,
  GatewayEvent,
  GatewayFact as Fact,
  GatewayState,
} from '../../src/gateway/core/gateway-state.ts';

class World {
  state: GatewayState = initialGateway({ sequence: 0, committedStep: 0, hashEvery: 4, nowMs: 0 });
  nowMs = 0;

  feed(...facts: readonly Fact[]): readonly GatewayEffect[] {
    return facts.flatMap((fact) => {
      const { state, effects } = advanceGateway(this.state, { ...fact, nowMs: this.nowMs } as GatewayEvent);
      this.state = state;
      return effects;
    });
  }

  join(...ids: readonly string[]): readonly GatewayEffect[] {
    return this.feed(
      ...ids.flatMap((trainerId): Fact[] => [
        { type: 'trainerJoined', trainerId },
        { type: 'trainerReady', trainerId },
      ]),
    );
  }

  assign(positions: readonly number[] | null, more: object = {}): readonly GatewayEffect[] {
    const step = this.state.committedStep + 1;
    return this.feed({ type: 'stepAssigned', step, positions, refreshSlots: [], deadlineMs: 0, ...more });
  }

  contribute(trainerId: string, tokens: number): readonly GatewayEffect[] {
    const step = this.state.committedStep + 1;
    return this.feed({ type: 'contributionReceived', trainerId, step, tokens, lossSum: tokens });
  }
}

function ready(...ids: readonly string[]): World {
  const world = new World();
  world.feed({ type: 'leaderJoined' });
  world.join(...ids);
  return world;
}

const typesOf = (effects: readonly GatewayEffect[]): readonly string[] => effects.map(({ type }) => type);

function contributionIn(t: ExecutionContext, effects: readonly GatewayEffect[]) {
  const found = effects.find((effect) => effect.type === 'sendContribution');
  t.truthy(found, JSON.stringify(effects));
  return found!;
}

test('the coordinator is told how many trainers are ready, and nothing as long as none is', (t) => {
  const world = new World();
  t.deepEqual(world.feed({ type: 'leaderJoined' }, { type: 'trainerJoined', trainerId: 'b' }), []);
  t.deepEqual(world.feed({ type: 'trainerReady', trainerId: 'b' }), [{ type: 'tellCapacity', trainers: 1 }]);
  t.deepEqual(world.join('a'), [{ type: 'tellCapacity', trainers: 2 }]);
  const lost = world.feed({ type: 'trainerLost', trainerId: 'b', reason: 'cut' });
  t.deepEqual(lost, [{ type: 'tellCapacity', trainers: 1 }]);
  t.deepEqual(typesOf(world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' })), ['reconnect']);
});

test('a step is split in ascending id, larger shares first, and answered with one contribution', (t) => {
  const world = ready('b', 'c', 'a');
  t.deepEqual(world.assign([5, 6, 7, 8]), [
    { type: 'assignStep', step: 1, trainerId: 'a', positions: [5, 6] },
    { type: 'assignStep', step: 1, trainerId: 'b', positions: [7] },
    { type: 'assignStep', step: 1, trainerId: 'c', positions: [8] },
  ]);
  t.deepEqual(world.contribute('c', 3), []);
  t.deepEqual(world.contribute('a', 4), []);
  const sent = contributionIn(t, world.contribute('b', 5));
  t.deepEqual(
    sent.received.map(({ trainerId, tokens }) => [trainerId, tokens]),
    [
      ['a', 4],
      ['b', 5],
      ['c', 3],
    ],
  );
  t.deepEqual(
    sent.shards.flatMap(({ positions }) => positions),
    [5, 6, 7, 8],
  );
});

test('the sequences of a trainer that is lost are not in the contribution; one that was here whole counts', (t) => {
  const world = ready('a', 'b', 'c');
  world.assign([0, 1, 2]);
  world.contribute('a', 4);
  t.deepEqual(typesOf(world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' })), ['tellCapacity']);
  world.contribute('b', 4);
  const sent = contributionIn(t, world.feed({ type: 'trainerLost', trainerId: 'c', reason: 'cut' }));
  t.deepEqual(
    sent.shards.map(({ trainerId, positions }) => [trainerId, positions]),
    [
      ['a', [0]],
      ['b', [1]],
    ],
  );
});

test('without a trainer left the work goes back with the connection', (t) => {
  const world = ready('a');
  world.assign([0]);
  const effects = world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' });
  t.deepEqual(typesOf(effects), ['reconnect', 'discardStaged']);
  t.deepEqual(world.assign([0]), [], 'what still comes on the old connection is void');
});

test('a trainer that is too slow is left behind, told so, and takes part again once it has answered', (t) => {
  const world = ready('a', 'b');
  world.assign([0, 1], { deadlineMs: 1000 });
  world.contribute('a', 4);
  world.nowMs = 899;
  t.deepEqual(world.feed({ type: 'ticked' }), []);
  world.nowMs = 900;
  const sent = contributionIn(t, world.feed({ type: 'ticked' }));
  t.deepEqual(
    sent.shards.map(({ trainerId }) => trainerId),
    ['a'],
  );
  world.feed({ type: 'recordStored', sequence: 1, step: 1, kind: 'update' });
  const assigned = world.assign([1, 2]);
  t.deepEqual(
    assigned.flatMap((effect) => (effect.type === 'assignStep' ? [effect.trainerId] : [])),
    ['a'],
  );
  const late = world.feed({
    ...{ type: 'contributionReceived', trainerId: 'b', step: 1, tokens: 4, lossSum: 4 },
  });
  t.deepEqual(typesOf(late), ['rejectStep', 'tellCapacity']);
});

test('a step that goes on without the gateway ends with an empty contribution, by which it is counted on again', (t) => {
  const world = ready('a', 'b');
  world.assign([0, 1]);
  world.contribute('a', 4);
  const effects = world.feed({ type: 'recordStored', sequence: 1, step: 1, kind: 'update' });
  t.deepEqual(contributionIn(t, effects).received, []);
});

test('a refresh goes its rounds: sketches are summed, factors dealt out, and those of a lost trainer given to another', (t) => {
  const world = ready('a', 'b');
  world.assign([0, 1], { refreshSlots: [3, 4, 5] });
  const asked = world.feed({ type: 'sketchesAsked', step: 1, round: 1, slots: [3, 4, 5] });
  t.deepEqual(asked, [
    { type: 'requestSketches', trainerIds: ['a', 'b'], step: 1, round: 1, slots: [3, 4, 5] },
  ]);
  const sketch = (trainerId: string): Fact => ({
    type: 'sketchReceived',
    trainerId,
    step: 1,
    round: 1,
    tokens: 4,
  });
  t.deepEqual(world.feed(sketch('b')), []);
  t.deepEqual(typesOf(world.feed(sketch('a'))), ['sendSketches']);
  const dealt = world.feed({ type: 'factorsAsked', step: 1, round: 1, slots: [3, 4, 5], isFinal: true });
  t.deepEqual(
    dealt.map((effect) => (effect.type === 'assignFactors' ? [effect.trainerId, effect.slots] : [])),
    [
      ['a', [3, 5]],
      ['b', [4]],
    ],
  );
  t.deepEqual(world.feed({ type: 'factorReceived', trainerId: 'b', step: 1, round: 1, slots: [4] }), []);
  const handedOn = world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' });
  t.deepEqual(handedOn[0], {
    ...{ type: 'assignFactors', trainerId: 'b', step: 1, round: 1, slots: [3, 5], isFinal: true },
  });
  const done = world.feed({ type: 'factorReceived', trainerId: 'b', step: 1, round: 1, slots: [5, 3] });
  t.deepEqual(typesOf(done), ['sendFactors']);
  t.deepEqual(world.feed({ type: 'recordStored', sequence: 1, step: 1, kind: 'basis' }), []);
  const sent = contributionIn(t, world.contribute('b', 4));
  t.deepEqual(
    sent.shards.flatMap(({ positions }) => positions),
    [1],
  );
});

test('held-out sequences of a lost trainer are measured by another, and the answer is one', (t) => {
  const world = ready('a', 'b');
  const asked = world.feed({ type: 'evaluationAsked', job: 1, step: 0, sequences: 3 });
  t.deepEqual(
    asked.map((effect) => (effect.type === 'assignEvaluation' ? effect.sequences : null)),
    [[0, 1], [2]],
  );
  const handedOn = world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' });
  t.like(handedOn[0], { type: 'assignEvaluation', trainerId: 'b', sequences: [0, 1] });
  const answer: Fact = { type: 'evaluationReceived', trainerId: 'b', step: 0, tokens: 8, lossSum: 16 };
  t.deepEqual(world.feed(answer), []);
  const [sent] = world.feed(answer);
  t.like(sent, { type: 'sendEvaluation', step: 0 });
});

test('when the coordinator is gone those who are at work begin anew, for their answers would be to something void', (t) => {
  const world = ready('a', 'b');
  world.assign([0, 1]);
  world.contribute('a', 4);
  const effects = world.feed({ type: 'leaderLost', reason: 'cut' });
  t.deepEqual(typesOf(effects), ['discardStaged', 'closeConnection']);
  t.like(effects[1], { trainerId: 'b', reason: 'COORDINATOR_STOPPING' });
  t.deepEqual(world.feed({ type: 'leaderJoined' }), [{ type: 'tellCapacity', trainers: 1 }]);
});

test('the hash that most trainers tell is the gateway’s; who has another must join without state', (t) => {
  const world = ready('a', 'b', 'c');
  world.feed({ type: 'recordStored', sequence: 4, step: 4, kind: 'update' });
  const told = (trainerId: string, weightsSha256: string): Fact => ({
    ...{ type: 'stateHashReceived', trainerId, step: 4, weightsSha256 },
  });
  t.deepEqual(world.feed(told('a', 'ff'), told('c', '12')), []);
  const effects = world.feed(told('b', '12'));
  t.deepEqual(effects[0], { type: 'sendHash', step: 4, weightsSha256: '12' });
  t.like(effects[1], { type: 'closeConnection', trainerId: 'a', reason: 'STATE_DIVERGED' });
});

test('a checkpoint is kept and then sent on; a lost uploader gives the connection up, so that another is asked', (t) => {
  const world = ready('a', 'b');
  world.feed({ type: 'recordStored', sequence: 1, step: 1, kind: 'update' });
  const ask: Fact = { type: 'snapshotAsked', step: 1, sequence: 1, isLocalOnly: false };
  t.deepEqual(typesOf(world.feed(ask)), ['requestSnapshot']);
  const written = world.feed(
    { type: 'snapshotReceived', trainerId: 'a', step: 1 },
    { type: 'checkpointWritten', step: 1 },
  );
  t.deepEqual(typesOf(written), ['writeCheckpoint', 'sendSnapshot']);
  world.feed(ask);
  const lost = typesOf(world.feed({ type: 'trainerLost', trainerId: 'a', reason: 'cut' }));
  t.true(lost.includes('reconnect') && lost.includes('abandonCheckpoint'), lost.join());
});

test('what was never asked for ends the connection of who sends it', (t) => {
  const world = ready('a', 'b');
  const effects = world.feed({
    ...{ type: 'contributionReceived', trainerId: 'a', step: 7, tokens: 4, lossSum: 4 },
  });
  t.like(effects[0], { type: 'closeConnection', trainerId: 'a', reason: 'UNEXPECTED_MESSAGE' });
});

test('the checkpoint is kept with the hash that its trainer has told of the same step', (t) => {
  const world = ready('a', 'b');
  world.feed({ type: 'recordStored', sequence: 1, step: 1, kind: 'update' });
  world.feed({ type: 'snapshotAsked', step: 1, sequence: 1, isLocalOnly: true });
  const hash: Fact = { type: 'stateHashReceived', trainerId: 'a', step: 1, weightsSha256: '12' };
  t.deepEqual(typesOf(world.feed(hash)), ['sendHash', 'endSnapshot'], 'nothing else was wanted');
  t.deepEqual(world.feed({ type: 'snapshotReceived', trainerId: 'a', step: 1 }), [
    { type: 'writeCheckpoint', step: 1, trainerId: 'a', weightsSha256: '12' },
  ]);
});

test('a new step makes the one before void, and those who were still at it begin anew', (t) => {
  const world = ready('a', 'b', 'c');
  world.assign([0, 1, 2]);
  world.contribute('a', 4);
  const effects = world.assign([0, 1, 2]);
  t.deepEqual(typesOf(effects), [
    ...['discardStaged', 'closeConnection', 'closeConnection', 'assignStep', 'tellCapacity'],
  ]);
  t.like(effects[1], { trainerId: 'b', text: 'its work is void: step 1 begins' });
});
