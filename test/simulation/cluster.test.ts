// Whole runs in memory: the real coordinator core and the real session core over a network with faults.
// Every run must keep the rules of src/simulation/invariants.ts; every fault must have come about.
import test, { type ExecutionContext } from 'ava';
import type { Phase, RunPlan } from '../../src/coordinator/core/state.ts';
import { runCluster, type ClusterOptions, type ClusterResult } from '../../src/simulation/cluster.ts';
import { FAULT_TYPES, type Fault, type FaultType } from '../../src/simulation/faults.ts';
import { playSchedules } from '../../src/simulation/schedules.ts';

const THREE = ['a', 'b', 'c'];
/** Plays a run and checks that nothing is wrong with it and that every fault came about. */
function cluster(t: ExecutionContext, options: Partial<ClusterOptions> & { seed: number }): ClusterResult {
  const result = runCluster({ trainerIds: THREE, ...options });
  const planned = new Map<FaultType, number>();
  for (const { type } of options.faults ?? []) planned.set(type, (planned.get(type) ?? 0) + 1);
  t.deepEqual(result.violations, []);
  t.deepEqual(result.fired, planned);
  return result;
}

/** Committed steps, the newest checkpoint and how the run ended. */
function summary({ disk, state }: ClusterResult): string {
  const steps = disk.journal.filter(({ committed }) => committed !== null).length;
  const checkpoint = Math.max(...disk.checkpoints.map((each) => each.state.step));
  const outcome = state?.phase.phase === 'finished' ? state.phase.outcome : 'not finished';
  return `${steps} steps, checkpoint ${checkpoint}, ${outcome}`;
}

const lastDigest = ({ disk }: ClusterResult): string | undefined => disk.journal.at(-1)?.record.digest;

const PHASES: readonly Phase['phase'][] = [
  'waiting',
  'sketching',
  'factorising',
  'collecting',
  'committing',
  'evaluating',
  'finishing',
];

test('an undisturbed run goes through every phase and ends with a checkpoint of its last step', (t) => {
  const result = cluster(t, { seed: 1 });
  t.is(summary(result), '6 steps, checkpoint 6, completed');
  t.deepEqual([...result.phases].sort(), [...PHASES, 'finished' as const].sort());
  t.deepEqual(
    result.disk.journal.map(({ record }) => `${record.kind} ${record.step}`),
    ['basis 1', 'update 1', 'update 2', 'update 3', 'basis 4', 'update 4', 'update 5', 'update 6'],
  );
});

test('generated bases are on disk before their step begins, and nothing is sketched', (t) => {
  const result = cluster(t, { seed: 1, plan: { refreshRounds: 0 } });
  t.is(summary(result), '6 steps, checkpoint 6, completed');
  t.false(result.phases.has('sketching'));
  t.deepEqual(
    result.disk.journal.map(({ record }) => `${record.kind} ${record.step}`),
    ['basis 1', 'update 1', 'update 2', 'update 3', 'basis 4', 'update 4', 'update 5', 'update 6'],
  );
});

test('the same seed gives the same run, and other delays give the same weights', (t) => {
  const plan = { startTrainers: 3 };
  const first = cluster(t, { seed: 2, plan });
  const again = cluster(t, { seed: 2, plan });
  const slower = cluster(t, { seed: 2, plan, latencyMs: 90 });
  t.is(first.endedAtMs, again.endedAtMs);
  t.is(lastDigest(first), lastDigest(again));
  t.not(first.endedAtMs, slower.endedAtMs);
  t.is(lastDigest(first), lastDigest(slower));
});

test('a trainer killed in any phase is replaced by the others and takes part again', (t) => {
  for (const [seed, phase] of PHASES.entries()) {
    for (const trainerId of THREE) {
      const when = { phase, step: phase === 'waiting' ? 0 : 1 };
      const faults: Fault[] = [{ type: 'crashTrainer', trainerId, backAfterMs: 700, when }];
      const result = cluster(t, { seed, faults });
      t.is(summary(result), '6 steps, checkpoint 6, completed', phase);
    }
  }
});

test('a disk that is full in any phase, for seconds, costs nothing but time', (t) => {
  const plan = { startTrainers: 3 };
  for (const [seed, phase] of PHASES.entries()) {
    const when = { phase, step: phase === 'waiting' ? 0 : 2 };
    const faults: Fault[] = [{ type: 'fillDisk', durationMs: 20_000, when }];
    const result = cluster(t, { seed, plan, faults });
    t.is(summary(result), '6 steps, checkpoint 6, completed', phase);
    t.is(lastDigest(result), lastDigest(cluster(t, { seed, plan })), phase);
    t.true(result.endedAtMs > 20_000, phase);
  }
});

test('all trainers killed at once in any phase lose no committed step', (t) => {
  for (const [seed, phase] of PHASES.entries()) {
    const when = { phase, step: phase === 'waiting' ? 0 : 2 };
    const faults = THREE.map((trainerId): Fault => {
      return { type: 'crashTrainer', trainerId, backAfterMs: 900, when };
    });
    const result = cluster(t, { seed, faults });
    // Nobody is left to give the last checkpoint: the journal has the steps.
    const checkpoint = phase === 'finishing' ? 4 : 6;
    t.is(summary(result), `6 steps, checkpoint ${checkpoint}, completed`, phase);
  }
});

test('the coordinator killed in any phase goes on with the same weights as if nothing had happened', (t) => {
  const plan = { startTrainers: 3 };
  for (const [seed, phase] of PHASES.entries()) {
    const when = { phase, step: phase === 'waiting' ? 0 : 2 };
    const faults: Fault[] = [{ type: 'crashCoordinator', backAfterMs: 800, isAfterJournal: false, when }];
    const result = cluster(t, { seed, plan, faults });
    t.is(summary(result), '6 steps, checkpoint 6, completed', phase);
    t.is(lastDigest(result), lastDigest(cluster(t, { seed, plan })), phase);
    t.is(result.starts, 2);
  }
});

test('the coordinator killed between the journal and the announcement announces after its restart', (t) => {
  const plan = { startTrainers: 3 };
  for (const [seed, step] of [1, 2, 4, 6].entries()) {
    const when = { phase: 'collecting', step } as const;
    const faults: Fault[] = [{ type: 'crashCoordinator', backAfterMs: 300, isAfterJournal: true, when }];
    const result = cluster(t, { seed, plan, faults });
    t.is(summary(result), '6 steps, checkpoint 6, completed');
    t.is(lastDigest(result), lastDigest(cluster(t, { seed, plan })));
    t.is(result.starts, 2);
  }
});

test('a run that is stopped and resumed ends with the same weights as one that never was', (t) => {
  const plan = { startTrainers: 3 };
  const whole = cluster(t, { seed: 9, plan });
  for (const stopAtMs of [200, 300, 450, 600, 800, 1_000]) {
    const stopped = cluster(t, { seed: 9, plan, stopAtMs });
    t.regex(summary(stopped), /stopped$/);
    t.is(stopped.disk.checkpoints.at(-1)?.state.step, stopped.state?.step);
    const resumed = cluster(t, { seed: 9, plan, disk: stopped.disk });
    t.is(summary(resumed), '6 steps, checkpoint 6, completed');
    t.is(lastDigest(resumed), lastDigest(whole));
  }
});

test('a schedule that depends on the refreshes themselves goes on after a stop as if there had been none', (t) => {
  const plan = {
    startTrainers: 3,
    totalSteps: 24,
    updateProjGap: 2,
    isWarmStart: true,
    lazyThreshold: 0.4,
    convergedRatio: 0.5,
  };
  const basesOf = ({ disk }: ClusterResult): string[] =>
    disk.journal.flatMap(({ record, bases }) =>
      record.kind === 'basis'
        ? [`${record.step}: ${bases.map(({ slot, rank }) => `${slot}:${rank}`).join(' ')}`]
        : [],
    );
  const whole = cluster(t, { seed: 12, plan });
  const fixed = cluster(t, { seed: 12, plan: { ...plan, lazyThreshold: null, convergedRatio: null } });
  t.notDeepEqual(basesOf(whole), basesOf(fixed));
  for (const stopAtMs of [900, 1_700, 2_600, 3_500]) {
    const stopped = cluster(t, { seed: 12, plan, stopAtMs });
    t.regex(summary(stopped), /stopped$/);
    const resumed = cluster(t, { seed: 12, plan, disk: stopped.disk });
    t.deepEqual(basesOf(resumed), basesOf(whole));
    t.is(lastDigest(resumed), lastDigest(whole));
  }
});

test('a run with a step for every combination of a slow and a silent trainer ends', (t) => {
  const at = (step: number) => ({ phase: 'collecting', step }) as const;
  const faults: Fault[] = [
    { type: 'freezeTrainer', trainerId: 'a', durationMs: 8_000, when: at(1) },
    { type: 'isolate', trainerId: 'b', durationMs: 4_000, when: at(2) },
    { type: 'freezeTrainer', trainerId: 'c', durationMs: 40_000, when: at(4) },
  ];
  t.is(summary(cluster(t, { seed: 3, faults })), '6 steps, checkpoint 6, completed');
});

test('a trainer too slow for every deadline gets the run on all the same', (t) => {
  const result = cluster(t, { seed: 4, trainerIds: ['a'], plan: { startTrainers: 1, stepDeadlineMs: 60 } });
  t.is(summary(result), '6 steps, checkpoint 6, completed');
});

test('a link that is cut, isolated, slow or loses frames costs time and no step', (t) => {
  const when = { phase: 'collecting', step: 2 } as const;
  const troubles: Fault[] = [
    { type: 'cut', trainerId: 'b', durationMs: 2_500, when },
    { type: 'isolate', trainerId: 'b', durationMs: 1_000, when },
    { type: 'isolate', trainerId: 'b', durationMs: 9_000, when },
    { type: 'delay', trainerId: 'b', extraMs: 900, durationMs: 6_000, when },
    { type: 'drop', trainerId: 'b', rate: 0.3, durationMs: 3_000, when },
  ];
  for (const [seed, fault] of troubles.entries()) {
    t.is(summary(cluster(t, { seed, faults: [fault] })), '6 steps, checkpoint 6, completed');
  }
});

test('a link that breaks again and again costs time and no step', (t) => {
  for (const [seed, periodMs] of [60, 300, 900, 2_500].entries()) {
    const when = { phase: 'collecting', step: 2 } as const;
    const faults: Fault[] = [{ type: 'flap', trainerId: 'b', times: 5, periodMs, when }];
    t.is(summary(cluster(t, { seed, faults })), '6 steps, checkpoint 6, completed');
  }
});

test('with a quorum a slow trainer holds nobody up for longer than the grace', (t) => {
  const plan = {
    startTrainers: 3,
    totalSteps: 12,
    evaluationEvery: 0,
    checkpointEvery: 0,
    hasLocalState: false,
  };
  const msPerSequence = { a: 10, b: 1_500, c: 10 }; // b misses the deadline of 3 s
  const timeOf = (more: Partial<RunPlan>): number => {
    const { endedAtMs, disk } = cluster(t, { seed: 15, plan: { ...plan, ...more }, msPerSequence });
    t.is(disk.journal.at(-1)?.record.step, 12);
    return endedAtMs;
  };
  const [all, quorum] = [timeOf({ quorum: 'all' }), timeOf({ quorum: '60%', graceMs: 100 })];
  t.log(`12 steps: ${all.toFixed(0)} ms waiting for the deadline, ${quorum.toFixed(0)} ms with a quorum`);
  t.true(quorum < all / 2);
});

test('a clock that jumps ahead or back breaks no rule', (t) => {
  for (const [seed, byMs] of [-60_000, -2_000, 1_000, 10_000, 3_600_000].entries()) {
    const when = { phase: 'collecting', step: 2 } as const;
    const faults: Fault[] = [{ type: 'jumpClock', byMs, when }];
    t.is(summary(cluster(t, { seed, faults })), '6 steps, checkpoint 6, completed');
  }
});

test('frames that come twice or overtake each other never count twice', (t) => {
  for (let seed = 0; seed < 10; seed++) {
    const when = { phase: 'sketching', step: 1 } as const;
    const faults: Fault[] = [
      { type: 'duplicate', trainerId: 'a', rate: 0.6, durationMs: 9_000, when },
      { type: 'reorder', trainerId: 'b', rate: 0.4, durationMs: 9_000, when },
    ];
    t.is(summary(cluster(t, { seed, faults })), '6 steps, checkpoint 6, completed');
  }
});

test('trainers that join late and leave early change who works, not what is computed', (t) => {
  const faults: Fault[] = [
    { type: 'join', trainerId: 'd', when: { phase: 'collecting', step: 2 } },
    { type: 'join', trainerId: 'e', when: { phase: 'factorising', step: 4 } },
    { type: 'leave', trainerId: 'a', when: { phase: 'collecting', step: 3 } },
    { type: 'leave', trainerId: 'b', when: { phase: 'collecting', step: 5 } },
  ];
  const result = cluster(t, { seed: 5, plan: { totalSteps: 9 }, faults });
  t.is(summary(result), '9 steps, checkpoint 9, completed');
  const members = result.disk.journal.flatMap(({ committed }) => committed?.trainerIds ?? []);
  t.true(members.includes('d') && members.includes('e'));
  t.regex(result.sessions.get('a') ?? '', /^LEAVING/);
});

test('a second process with the id of a trainer takes its place', (t) => {
  const faults: Fault[] = [{ type: 'join', trainerId: 'b', when: { phase: 'collecting', step: 2 } }];
  t.is(summary(cluster(t, { seed: 6, faults })), '6 steps, checkpoint 6, completed');
});

test('a trainer whose weights change by themselves is found out and starts anew', (t) => {
  for (const [seed, trainerId] of THREE.entries()) {
    const when = { phase: 'collecting', step: 3 } as const;
    const faults: Fault[] = [{ type: 'corruptState', trainerId, when }];
    const result = cluster(t, { seed, plan: { startTrainers: 3 }, faults });
    t.is(summary(result), '6 steps, checkpoint 6, completed');
  }
});

test('a trainer that goes wrong between two comparisons gives no checkpoint, whoever it is', (t) => {
  // Hashes are told every 5 steps; checkpoints are made every 2, from the first trainer.
  const plan = { startTrainers: 3, hashEvery: 5, checkpointEvery: 2, totalSteps: 9 };
  for (const [seed, trainerId] of THREE.entries()) {
    const when = { phase: 'collecting', step: 3 } as const;
    const faults: Fault[] = [{ type: 'corruptState', trainerId, when }];
    t.is(summary(cluster(t, { seed, plan, faults })), '9 steps, checkpoint 9, completed');
  }
});

test('of two trainers that differ none is believed, and the run goes on from the checkpoint and the journal', (t) => {
  const plan = { hashEvery: 3, totalSteps: 9 };
  for (const [seed, trainerId] of ['a', 'b'].entries()) {
    const when = { phase: 'collecting', step: 3 } as const;
    const faults: Fault[] = [{ type: 'corruptState', trainerId, when }];
    const result = cluster(t, { seed, trainerIds: ['a', 'b'], plan, faults });
    t.is(summary(result), '9 steps, checkpoint 9, completed');
  }
});

test('a disk without space for checkpoints does not stop the run', (t) => {
  const when = { phase: 'collecting', step: 1 } as const;
  const one: Fault = { type: 'failCheckpoint', when };
  t.is(summary(cluster(t, { seed: 7, faults: [one] })), '6 steps, checkpoint 6, completed');
  // Two checkpoints beside the steps and four tries at the end fail.
  const many = Array.from({ length: 6 }, () => ({ ...one }));
  t.is(summary(cluster(t, { seed: 7, faults: many })), '6 steps, checkpoint 0, completed');
});

test('results without tokens send their sequences back, and none is lost', (t) => {
  const faults = [1, 2, 4].map((step): Fault => {
    return { type: 'loseTokens', trainerId: 'b', when: { phase: 'collecting', step } };
  });
  const result = cluster(t, { seed: 8, faults });
  t.is(summary(result), '6 steps, checkpoint 6, completed');
  t.true(result.disk.journal.some(({ committed }) => (committed?.cursor.returned.length ?? 0) > 0));
});

test('trainers with speeds of 3 to 1: adaptive shares reach 85% of the sum of their speeds, equal ones do not', (t) => {
  const plan = {
    totalSteps: 24,
    stepDeadlineMs: 60_000,
    batchSequences: 16,
    projectedSlots: [],
    evaluationEvery: 0,
    checkpointEvery: 0,
  };
  const msPerSequence = { fast: 100, slow: 300 };
  /** Sequences a second over a whole run, of which nothing is left out. */
  const speed = (
    trainerIds: readonly string[],
    sharding: RunPlan['sharding'],
    more: Partial<RunPlan> = {},
  ): number => {
    const shared = { ...plan, startTrainers: trainerIds.length, sharding, ...more };
    const { endedAtMs } = cluster(t, { seed: 13, trainerIds, plan: shared, msPerSequence });
    return (1000 * plan.totalSteps * plan.batchSequences) / endedAtMs;
  };
  const sum = speed(['fast'], 'adaptive') + speed(['slow'], 'adaptive');
  const both = ['fast', 'slow'];
  const [equal, adaptive] = [speed(both, 'equal') / sum, speed(both, 'adaptive') / sum];
  const refreshing = { projectedSlots: [0, 1, 2], isStaggered: true, updateProjGap: 4 };
  const refreshed = speed(both, 'adaptive', refreshing) / sum;
  t.log(
    `of the sum: equal ${equal.toFixed(3)}, adaptive ${adaptive.toFixed(3)}, with refreshes ${refreshed.toFixed(3)}`,
  );
  t.true(equal < 0.55);
  t.true(adaptive >= 0.85);
  t.true(refreshed >= 0.85);
});

test('adaptive shares follow a trainer that joins, one that is killed and one that leaves', (t) => {
  const faults: Fault[] = [
    { type: 'join', trainerId: 'd', when: { phase: 'collecting', step: 4 } },
    { type: 'crashTrainer', trainerId: 'a', backAfterMs: 900, when: { phase: 'collecting', step: 9 } },
    { type: 'leave', trainerId: 'b', when: { phase: 'collecting', step: 14 } },
  ];
  const plan = {
    totalSteps: 20,
    batchSequences: 24,
    startTrainers: 3,
    sharding: 'adaptive' as const,
    projectedSlots: [],
  };
  const msPerSequence = { a: 10, b: 20, c: 40, d: 40 };
  const { disk, violations } = runCluster({ seed: 14, trainerIds: THREE, plan, faults, msPerSequence });
  t.deepEqual(violations, []);
  const shares = disk.journal.map(({ committed }) => committed?.shares.join(' '));
  // 10, 20 and 40 ms: 24 sequences are 14 + 7 + 3, or nearly so, for the network takes its time too.
  t.is(shares[0], 'a:8 b:8 c:8');
  t.regex(shares[3] ?? '', /^a:1[2-5] b:[67] c:[345]$/);
  t.regex(shares[7] ?? '', /^a:1[0-4] b:[5-7] c:[2-4] d:[2-4]$/);
  t.regex(shares.at(-1) ?? '', /^a:1[4-7] c:[345] d:[345]$/);
});

test('200 random schedules keep every rule', (t) => {
  const { broken, fired } = playSchedules(0, 200);
  t.is(broken, null, JSON.stringify(broken, null, 1));
  // Some faults wait for a phase that is over by then; but every kind came about in many runs.
  for (const type of FAULT_TYPES) t.true((fired.get(type) ?? 0) >= 10, `${type}: ${fired.get(type)}`);
});

test('what trainers keep of their gradients goes on over a stop; after a crash between checkpoints it begins anew', (t) => {
  const kept = ({ disk }: ClusterResult): string =>
    THREE.map((id) => `${id}: ${(disk.checkpoints.at(-1)?.locals.get(id) ?? []).join()}`).join('; ');
  const counted = ({ disk }: ClusterResult): string =>
    THREE.map((id) => {
      const steps = disk.journal.filter(({ committed }) => committed?.trainerIds.includes(id) === true);
      return `${id}: ${steps.map(({ record }) => record.step).join()}`;
    }).join('; ');
  const plan = { startTrainers: 3, totalSteps: 8, checkpointEvery: 0 };
  const stopped = cluster(t, { seed: 5, plan, stopAtMs: 1_000 });
  const { step } = stopped.state!;
  t.true(step > 1 && step < 8, `stopped at step ${step}`);
  t.is(kept(stopped), counted(stopped));
  const resumed = cluster(t, { seed: 5, plan, disk: stopped.disk });
  t.is(resumed.disk.journal.at(-1)?.record.step, 8);
  t.is(kept(resumed), counted(resumed));

  // The trainers and the coordinator are killed together: nobody still has what was kept.
  const when = { phase: 'collecting', step: 4 } as const;
  const faults: Fault[] = [
    { type: 'crashCoordinator', backAfterMs: 300, isAfterJournal: false, when },
    ...THREE.map((trainerId): Fault => ({ type: 'crashTrainer', trainerId, backAfterMs: 300, when })),
  ];
  const crashed = cluster(t, { seed: 5, plan, faults });
  t.is(kept(crashed), THREE.map((id) => `${id}: 4,5,6,7,8`).join('; '));
});
