/** One well-formed message of every kind, with a sender that may send it. */
import type { Message, MessageKind, Peer } from '../../src/protocol/messages.ts';

const digest = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);

const sequences = {
  positions: [4, 7],
  length: 3,
  tokens: Int32Array.from([1, 2, 3, 40_000, 5, 6]),
  mask: Uint8Array.from([1, 0, 1, 1]),
};

const labelledSequences = {
  positions: [4, 7],
  length: 3,
  tokens: Int32Array.from([101, 2, 102, 101, 102, 0]),
  mask: new Uint8Array(0),
  labelled: { classes: Int32Array.from([1, 0]), lengths: Int32Array.from([3, 2]) },
};

const tensors = [
  { name: 'weights/model.norm.weight', shape: [8], codec: 'f32', totalBytes: 32 },
  { name: 'm_codes/model.embed_tokens.weight', shape: [300], codec: 'u8', totalBytes: 300 },
] as const;

/** A message and who sends it. */
export interface Sample {
  readonly from: Peer;
  readonly message: Message;
}

export const SAMPLES: readonly Sample[] = [
  {
    from: 'trainer',
    message: {
      kind: 'hello',
      protocolVersions: [1, 2],
      trainerId: 'anna-2.local',
      runName: 'demo',
      token: 'secret',
      software: 'galore-swarm 0.1.0',
      runId: 'r-1',
      sequence: 17,
      digest: digest(3),
      schemaHash: digest(4),
      codecs: ['f32', 'int8', 'int4'],
      snapshot: { runId: 'r-1', sequence: 14, digest: digest(5), tensors: 2 },
    },
  },
  {
    from: 'coordinator',
    message: {
      kind: 'welcome',
      protocolVersion: 1,
      runId: 'r-1',
      runName: 'demo',
      configJson: '{"steps":3}',
      modelJson: '{"hidden_size":8}',
      schemaHash: digest(4),
      heartbeatIntervalMs: 5000,
      heartbeatTimeoutMs: 30_000,
      snapshot: { step: 12, sequence: 14, tensors, digest: digest(5), firstTensor: 1, countedStep: 9 },
      site: { tokenizer: Uint8Array.from([31, 139, 8]), tokenizerSha256: digest(6), baseSha256: digest(7) },
    },
  },
  { from: 'coordinator', message: { kind: 'goodbye', code: 4000, reason: 'all 3 steps are done' } },
  { from: 'trainer', message: { kind: 'ready', sequence: 14, device: 'CPU, 2 threads' } },
  { from: 'trainer', message: { kind: 'ready', sequence: 14, device: 'CPU, 2 threads', examples: 767 } },
  {
    from: 'trainer',
    message: {
      kind: 'heartbeat',
      activity: 'step 12: backward',
      residentBytes: 5_000_000_000,
      tensorCount: 311,
      tokensPerSecond: 699.5,
    },
  },
  { from: 'coordinator', message: { kind: 'notice', text: 'waiting: 1 of 2 trainers' } },
  {
    from: 'trainer',
    message: {
      kind: 'part',
      stream: 'sketch',
      step: 12,
      round: 2,
      tensor: 5,
      codec: 'f32',
      offset: 4,
      totalBytes: 12,
      payload: Uint8Array.from([1, 2, 3, 4]),
    },
  },
  {
    from: 'coordinator',
    message: {
      kind: 'stepAssignment',
      step: 12,
      learningRate: 0.01,
      seed: 0xffffffff,
      sequences,
      localExamples: 0,
      refreshSlots: [0, 5],
      flushSlots: [2],
      deadlineMs: 60_000,
    },
  },
  {
    from: 'coordinator',
    message: {
      kind: 'stepAssignment',
      step: 13,
      learningRate: 0.01,
      seed: 5,
      sequences: null,
      localExamples: 16,
      refreshSlots: [],
      flushSlots: [],
      deadlineMs: 0,
    },
  },
  {
    from: 'coordinator',
    message: { kind: 'sketchRequest', step: 12, round: 1, slots: [0, 5], seed: 9 },
  },
  { from: 'trainer', message: { kind: 'sketch', step: 12, round: 1, tokens: 4 } },
  {
    from: 'coordinator',
    message: { kind: 'factorAssignment', step: 12, round: 3, slots: [5], isFinal: true },
  },
  {
    from: 'trainer',
    message: { kind: 'factor', step: 12, round: 3, slots: [5], zeroSlots: [0], similarities: [0.5] },
  },
  {
    from: 'trainer',
    message: { kind: 'contribution', step: 12, tokens: 4, lossSum: 32.5, checksum: 0xe3069283 },
  },
  {
    from: 'trainer',
    message: {
      ...{ kind: 'contribution', step: 13, tokens: 4, lossSum: 0, checksum: 7 },
      ...{ weight: 812, isLossWithheld: true },
    },
  },
  {
    from: 'coordinator',
    message: {
      kind: 'commit',
      sequence: 15,
      step: 12,
      previousDigest: digest(1),
      digest: digest(2),
      record: {
        type: 'basis',
        slots: [5],
        keptSlots: [0],
        isGenerated: false,
        ranks: [8],
        similarities: [-1],
      },
    },
  },
  {
    from: 'coordinator',
    message: {
      kind: 'commit',
      sequence: 16,
      step: 12,
      previousDigest: digest(2),
      digest: digest(3),
      record: {
        type: 'update',
        learningRate: 0.01,
        tokens: 4,
        lossSum: 32.5,
        members: [
          { trainerId: 'anna-2.local', tokens: 4, positions: [4, 7] },
          { trainerId: 'berta', tokens: 16, positions: [], weight: 812 },
        ],
        cursor: { next: 5_000_000_000, returned: [1, 2] },
        gradientNorm: 1.25,
        slotNorms: [0.5],
      },
    },
  },
  { from: 'trainer', message: { kind: 'stateHash', step: 12, weightsSha256: digest(9) } },
  { from: 'coordinator', message: { kind: 'evaluationAssignment', step: 12, sequences } },
  { from: 'coordinator', message: { kind: 'evaluationAssignment', step: 12, sequences: labelledSequences } },
  { from: 'coordinator', message: { kind: 'evaluationAssignment', step: 13, sequences: null } },
  { from: 'trainer', message: { kind: 'evaluation', step: 12, lossSum: 30, tokens: 4 } },
  { from: 'trainer', message: { kind: 'evaluation', step: 12, lossSum: 1.5, tokens: 4, correct: 3 } },
  { from: 'trainer', message: { kind: 'evaluation', step: 13, lossSum: 0, tokens: 0, isLossWithheld: true } },
  { from: 'coordinator', message: { kind: 'snapshotRequest', step: 12, sequence: 16, isLocalOnly: true } },
  {
    from: 'trainer',
    message: { kind: 'snapshotEnd', step: 12, sequence: 16, digest: new Uint8Array(0), tensors },
  },
  { from: 'coordinator', message: { kind: 'stepRejected', step: 11, reason: 'step 11 is over' } },
  { from: 'coordinator', message: { kind: 'updateWithdrawn', step: 11 } },
  { from: 'trainer', message: { kind: 'capacity', trainers: 4 } },
];

/** The first sample of a kind. */
export function sampleOf<Kind extends MessageKind>(kind: Kind): Extract<Message, { kind: Kind }> {
  const sample = SAMPLES.find(({ message }) => message.kind === kind);
  if (sample === undefined) throw new Error(`no sample of ${kind}`);
  return sample.message as Extract<Message, { kind: Kind }>;
}
