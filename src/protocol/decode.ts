/**
 * From generated protobuf objects to checked messages, one function a kind. Pure. Field names in
 * errors are those of galore.proto.
 */
import { stateBytes } from '../galore/state-table.ts';
import type { galore } from '#messages';
import {
  checkAmount,
  checkBytes,
  checkCount,
  checkDigest,
  checkEnum,
  checkList,
  checkLoss,
  checkName,
  checkOptionalDigest,
  checkPresent,
  checkSlots,
  checkText,
  checkTrainerId,
  checkUint,
  plainView,
  protocolError,
} from './checks.ts';
import { NUMBER_CODECS, STATE_CODECS, STREAM_NUMBERS } from './enums.ts';
import {
  MAX_CLASSES,
  MAX_CODECS,
  MAX_DIMENSIONS,
  MAX_JSON_LENGTH,
  MAX_LOSS_SUM,
  MAX_MEMBERS,
  MAX_PART_BYTES,
  MAX_POSITIONS,
  MAX_SEQUENCES_BYTES,
  MAX_TENSORS,
  MAX_TENSOR_NAME_LENGTH,
  MAX_TEXT_LENGTH,
  MAX_VERSIONS,
} from './limits.ts';
import {
  STREAM_SENDERS,
  type BasisRecord,
  type CodecName,
  type CursorInfo,
  type Member,
  type Message,
  type MessageKind,
  type PartMessage,
  type Peer,
  type Sequences,
  type SiteFacts,
  type SnapshotHeader,
  type SnapshotProgress,
  type StreamName,
  type TensorInfo,
  type UpdateRecord,
} from './messages.ts';

/** Streams whose Parts belong to a refresh round. */
const ROUND_STREAMS: readonly StreamName[] = ['sketch', 'sketchSum', 'factor'];

/** The body of each kind. */
interface Bodies {
  hello: galore.v1.Hello;
  welcome: galore.v1.Welcome;
  goodbye: galore.v1.Goodbye;
  ready: galore.v1.Ready;
  heartbeat: galore.v1.Heartbeat;
  notice: galore.v1.Notice;
  part: galore.v1.Part;
  stepAssignment: galore.v1.StepAssignment;
  sketchRequest: galore.v1.SketchRequest;
  sketch: galore.v1.Sketch;
  factorAssignment: galore.v1.FactorAssignment;
  factor: galore.v1.Factor;
  contribution: galore.v1.Contribution;
  commit: galore.v1.Commit;
  stateHash: galore.v1.StateHash;
  evaluationAssignment: galore.v1.EvaluationAssignment;
  evaluation: galore.v1.Evaluation;
  snapshotRequest: galore.v1.SnapshotRequest;
  snapshotEnd: galore.v1.SnapshotEnd;
  stepRejected: galore.v1.StepRejected;
  updateWithdrawn: galore.v1.UpdateWithdrawn;
  capacity: galore.v1.Capacity;
}

type Decoders = {
  readonly [Kind in MessageKind]: (body: Bodies[Kind], from: Peer) => Extract<Message, { kind: Kind }>;
};

/** Checks one kind's body. */
export const DECODERS: Decoders = {
  hello: (body) => {
    const runId = checkName(body.runId, 'run_id');
    return {
      kind: 'hello',
      protocolVersions: checkVersions(body.protocolVersions),
      trainerId: checkTrainerId(body.trainerId, 'trainer_id'),
      runName: checkName(body.runName, 'run_name'),
      token: checkName(body.token, 'token'),
      software: checkName(body.software, 'software'),
      runId,
      sequence: checkUint(body.sequence, 'sequence'),
      digest: runId === '' ? checkBytes(body.digest, 'digest', 0) : checkDigest(body.digest, 'digest'),
      schemaHash: checkOptionalDigest(body.schemaHash, 'schema_hash'),
      codecs: knownCodecs(body.codecs),
      snapshot:
        body.snapshot === null || body.snapshot === undefined ? null : snapshotProgress(body.snapshot),
      ...(body.gateway ? { isGateway: true as const } : {}),
    };
  },
  welcome: (body) => ({
    kind: 'welcome',
    protocolVersion: checkUint(body.protocolVersion, 'protocol_version', 1),
    runId: checkName(body.runId, 'run_id', 1),
    runName: checkName(body.runName, 'run_name'),
    configJson: checkText(body.configJson, 'config_json', MAX_JSON_LENGTH),
    modelJson: checkText(body.modelJson, 'model_json', MAX_JSON_LENGTH),
    schemaHash: checkDigest(body.schemaHash, 'schema_hash'),
    heartbeatIntervalMs: checkUint(body.heartbeatIntervalMs, 'heartbeat_interval_ms', 1),
    heartbeatTimeoutMs: checkUint(body.heartbeatTimeoutMs, 'heartbeat_timeout_ms', 1),
    snapshot: body.snapshot === null || body.snapshot === undefined ? null : snapshotHeader(body.snapshot),
    ...(body.site ? { site: siteFacts(body.site) } : {}),
    ...(body.software === '' ? {} : { software: checkName(body.software, 'software') }),
  }),
  goodbye: (body) => ({
    kind: 'goodbye',
    code: checkUint(body.code, 'code', 0, 65_535),
    reason: checkText(body.reason, 'reason', MAX_TEXT_LENGTH),
  }),
  ready: (body) => ({
    kind: 'ready',
    sequence: checkUint(body.sequence, 'sequence'),
    device: checkName(body.device, 'device'),
    ...(body.examples === 0 ? {} : { examples: checkAmount(body.examples, 'examples') }),
  }),
  heartbeat: (body) => ({
    kind: 'heartbeat',
    activity: checkName(body.activity, 'activity'),
    residentBytes: checkAmount(body.residentBytes, 'resident_bytes'),
    tensorCount: checkUint(body.tensorCount, 'tensor_count'),
    tokensPerSecond: checkAmount(body.tokensPerSecond, 'tokens_per_second'),
  }),
  notice: (body) => ({ kind: 'notice', text: checkText(body.text, 'text', MAX_TEXT_LENGTH) }),
  part: decodePart,
  stepAssignment: (body) => ({
    kind: 'stepAssignment',
    step: checkStep(body.step),
    learningRate: checkAmount(body.learningRate, 'learning_rate'),
    seed: checkUint(body.seed, 'seed'),
    ...assignedWork(body),
    refreshSlots: checkSlots(body.refreshSlots, 'refresh_slots'),
    flushSlots: checkSlots(body.flushSlots, 'flush_slots'),
    deadlineMs: checkUint(body.deadlineMs, 'deadline_ms'),
  }),
  sketchRequest: (body) => ({
    kind: 'sketchRequest',
    step: checkStep(body.step),
    round: checkRound(body.round),
    slots: checkSlots(body.slots, 'slots'),
    seed: checkUint(body.seed, 'seed'),
  }),
  sketch: (body) => ({
    kind: 'sketch',
    step: checkStep(body.step),
    round: checkRound(body.round),
    tokens: checkUint(body.tokens, 'tokens'),
  }),
  factorAssignment: (body) => ({
    kind: 'factorAssignment',
    step: checkStep(body.step),
    round: checkRound(body.round),
    slots: checkSlots(body.slots, 'slots'),
    isFinal: body.final,
  }),
  factor: (body) => ({
    kind: 'factor',
    step: checkStep(body.step),
    round: checkRound(body.round),
    slots: checkSlots(body.slots, 'slots'),
    zeroSlots: checkSlots(body.zeroSlots, 'zero_slots'),
    similarities: checkSimilarities(body.similarities, 'similarities', body.slots.length),
  }),
  contribution: (body) => ({
    kind: 'contribution',
    step: checkStep(body.step),
    tokens: checkUint(body.tokens, 'tokens'),
    lossSum: checkLoss(body.lossSum, 'loss_sum'),
    checksum: checkUint(body.checksum, 'checksum'),
    ...(body.weight === 0 ? {} : { weight: checkAmount(body.weight, 'weight') }),
    ...withheld(body),
    ...(body.members.length === 0
      ? {}
      : { members: checkList(body.members, 'members', MAX_MEMBERS, member) }),
  }),
  commit: (body) => ({
    kind: 'commit',
    sequence: checkUint(body.sequence, 'sequence', 1),
    step: checkStep(body.step),
    previousDigest: checkDigest(body.previousDigest, 'previous_digest'),
    digest: checkDigest(body.digest, 'digest'),
    record:
      body.kind === 'basis'
        ? basisRecord(checkPresent(body.basis, 'basis'))
        : updateRecord(checkPresent(body.update, 'kind')),
  }),
  stateHash: (body) => ({
    kind: 'stateHash',
    step: checkUint(body.step, 'step'),
    weightsSha256: checkDigest(body.weightsSha256, 'weights_sha256'),
  }),
  evaluationAssignment: (body) => ({
    kind: 'evaluationAssignment',
    step: checkUint(body.step, 'step'),
    sequences: body.sequences ? sequences(body.sequences) : null,
  }),
  evaluation: (body) => ({
    kind: 'evaluation',
    step: checkUint(body.step, 'step'),
    lossSum: checkLoss(body.lossSum, 'loss_sum'),
    tokens: checkUint(body.tokens, 'tokens'),
    ...(body.correct === 0 ? {} : { correct: checkUint(body.correct, 'correct', 0, body.tokens) }),
    ...withheld(body),
  }),
  snapshotRequest: (body) => ({
    kind: 'snapshotRequest',
    step: checkUint(body.step, 'step'),
    sequence: checkUint(body.sequence, 'sequence'),
    isLocalOnly: body.localOnly,
  }),
  snapshotEnd: (body, from) => ({
    kind: 'snapshotEnd',
    step: checkUint(body.step, 'step'),
    sequence: checkUint(body.sequence, 'sequence'),
    digest:
      from === 'coordinator' ? checkDigest(body.digest, 'digest') : checkBytes(body.digest, 'digest', 0),
    tensors: tensorInfos(body.tensors, 'tensors'),
  }),
  stepRejected: (body) => ({
    kind: 'stepRejected',
    step: checkUint(body.step, 'step'),
    reason: checkText(body.reason, 'reason', MAX_TEXT_LENGTH),
  }),
  updateWithdrawn: (body) => ({ kind: 'updateWithdrawn', step: checkUint(body.step, 'step') }),
  capacity: (body) => ({ kind: 'capacity', trainers: checkUint(body.trainers, 'trainers', 1, MAX_MEMBERS) }),
};

function decodePart(body: galore.v1.Part, from: Peer): PartMessage {
  const stream = checkEnum(body.stream, 'stream', STREAM_NUMBERS);
  const senders: readonly Peer[] = STREAM_SENDERS[stream];
  if (!senders.includes(from)) {
    throw protocolError('UNEXPECTED_MESSAGE', `a ${from} does not send Parts of stream ${stream}`);
  }
  const hasRound = ROUND_STREAMS.includes(stream);
  const totalBytes = checkUint(body.totalBytes, 'total_bytes', 1);
  const payloadBytes = checkUint(
    body.payload.length,
    'payload length',
    1,
    Math.min(MAX_PART_BYTES, totalBytes),
  );
  return {
    kind: 'part',
    stream,
    step: checkUint(body.step, 'step', stream === 'snapshot' ? 0 : 1),
    round: hasRound ? checkRound(body.round) : checkUint(body.round, 'round', 0, 0),
    tensor: checkUint(body.tensor, 'tensor', 0, MAX_TENSORS - 1),
    codec:
      stream === 'snapshot'
        ? checkEnum(body.codec, 'codec', STATE_CODECS)
        : checkEnum(body.codec, 'codec', NUMBER_CODECS),
    offset: checkUint(body.offset, 'offset', 0, totalBytes - payloadBytes),
    totalBytes,
    payload: plainView(body.payload),
  };
}

function checkVersions(versions: readonly number[]): readonly number[] {
  checkUint(versions.length, 'length of protocol_versions', 1, MAX_VERSIONS);
  return checkList(versions, 'protocol_versions', MAX_VERSIONS, (value, field) => checkUint(value, field, 1));
}

/** Those of the codecs that this build knows; the trainer may know more. */
function knownCodecs(numbers: readonly number[]): readonly CodecName[] {
  checkList(numbers, 'codecs', MAX_CODECS, (value) => value);
  return (Object.keys(NUMBER_CODECS) as CodecName[]).filter((name) => numbers.includes(NUMBER_CODECS[name]));
}

function checkStep(step: number): number {
  return checkUint(step, 'step', 1);
}

function checkRound(round: number): number {
  return checkUint(round, 'round', 1, 255);
}

function snapshotHeader(body: galore.v1.SnapshotHeader.$Properties): SnapshotHeader {
  const tensors = tensorInfos(body.tensors ?? [], 'snapshot.tensors');
  return {
    step: checkUint(body.step ?? 0, 'snapshot.step'),
    sequence: checkUint(body.sequence ?? 0, 'snapshot.sequence'),
    tensors,
    digest: checkOptionalDigest(body.digest ?? new Uint8Array(0), 'snapshot.digest'),
    firstTensor: checkUint(body.firstTensor ?? 0, 'snapshot.first_tensor', 0, tensors.length),
    ...(typeof body.countedStep === 'number'
      ? { countedStep: checkUint(body.countedStep, 'snapshot.counted_step') }
      : {}),
    ...(body.countedKnown ? { counted: countedSteps(body.counted ?? []) } : {}),
  };
}

function countedSteps(
  bodies: readonly galore.v1.CountedStep.$Properties[],
): Readonly<Record<string, number>> {
  const entries = checkList(bodies, 'snapshot.counted', MAX_MEMBERS, ({ trainerId, step }, field) => [
    checkTrainerId(trainerId ?? '', `${field}.trainer_id`),
    checkUint(step ?? 0, `${field}.step`),
  ]);
  return Object.fromEntries(entries) as Record<string, number>;
}

function snapshotProgress(body: galore.v1.SnapshotProgress.$Properties): SnapshotProgress {
  return {
    runId: checkName(body.runId ?? '', 'snapshot.run_id', 1),
    sequence: checkUint(body.sequence ?? 0, 'snapshot.sequence'),
    digest: checkDigest(body.digest ?? new Uint8Array(0), 'snapshot.digest'),
    tensors: checkUint(body.tensors ?? 0, 'snapshot.tensors', 1, MAX_TENSORS),
  };
}

function tensorInfos(
  bodies: readonly galore.v1.TensorInfo.$Properties[],
  field: string,
): readonly TensorInfo[] {
  return checkList(bodies, field, MAX_TENSORS, (body, name) => {
    const shape = checkList(body.shape ?? [], `${name}.shape`, MAX_DIMENSIONS, (extent, extentName) =>
      checkUint(extent, extentName, 1),
    );
    const codec = checkEnum(body.codec ?? 0, `${name}.codec`, STATE_CODECS);
    const expectedBytes = stateBytes(codec, shape);
    return {
      name: checkText(body.name ?? '', `${name}.name`, MAX_TENSOR_NAME_LENGTH, 1),
      shape,
      codec,
      totalBytes: checkUint(body.totalBytes ?? 0, `${name}.total_bytes`, expectedBytes, expectedBytes),
    };
  });
}

/** Sequences, or how many of its own a trainer is to take. */
function assignedWork({
  sequences: given,
  localExamples,
}: galore.v1.StepAssignment): Pick<
  Extract<Message, { kind: 'stepAssignment' }>,
  'sequences' | 'localExamples'
> {
  if (localExamples === 0) return { sequences: sequences(given), localExamples };
  if (given === null || given === undefined) {
    return { sequences: null, localExamples: checkUint(localExamples, 'local_examples', 1, MAX_POSITIONS) };
  }
  throw protocolError('MALFORMED_MESSAGE', 'sequences and local_examples are both there');
}

/** A loss that is kept back is not there. */
function withheld(body: { readonly lossWithheld: boolean; readonly lossSum: number }): {
  readonly isLossWithheld?: true;
} {
  if (!body.lossWithheld) return {};
  if (body.lossSum === 0) return { isLossWithheld: true };
  throw protocolError('MALFORMED_MESSAGE', `loss_sum is ${body.lossSum} though loss_withheld is set`);
}

function siteFacts(body: galore.v1.SiteFacts.$Properties): SiteFacts {
  return {
    tokenizer: plainView(body.tokenizer ?? new Uint8Array(0)),
    tokenizerSha256: checkOptionalDigest(body.tokenizerSha256 ?? new Uint8Array(0), 'site.tokenizer_sha256'),
    baseSha256: checkOptionalDigest(body.baseSha256 ?? new Uint8Array(0), 'site.base_sha256'),
  };
}

function sequences(body: galore.v1.Sequences.$Properties | null | undefined): Sequences {
  const { positions, length, tokens, mask, classes, lengths } = checkPresent(body, 'sequences');
  const count = positions?.length ?? 0;
  const places = checkList(positions ?? [], 'sequences.positions', MAX_POSITIONS, (position, field) =>
    checkUint(position, field),
  );
  checkUint(length ?? 0, 'sequences.length', 2, MAX_SEQUENCES_BYTES);
  const bytes = checkBytes(tokens ?? new Uint8Array(0), 'sequences.tokens', 4 * count * (length ?? 0));
  const hasMask = mask !== null && mask !== undefined && mask.length > 0;
  return {
    positions: places,
    length: length ?? 0,
    tokens: toInt32Array(bytes),
    mask: hasMask ? checkBytes(mask, 'sequences.mask', count * ((length ?? 0) - 1)) : new Uint8Array(0),
    ...labelledRows(classes ?? [], lengths ?? [], count, length ?? 0),
  };
}

/** The labels and lengths of `count` sequences to be classified; nothing if there are none. */
function labelledRows(
  classes: readonly number[],
  lengths: readonly number[],
  count: number,
  length: number,
): Pick<Sequences, 'labelled'> {
  if (classes.length === 0 && lengths.length === 0) return {};
  checkUint(classes.length, 'length of sequences.classes', count, count);
  checkUint(lengths.length, 'length of sequences.lengths', count, count);
  checkList(classes, 'sequences.classes', MAX_POSITIONS, (value, field) =>
    checkUint(value, field, 0, MAX_CLASSES - 1),
  );
  checkList(lengths, 'sequences.lengths', MAX_POSITIONS, (value, field) =>
    checkUint(value, field, 1, length),
  );
  return { labelled: { classes: Int32Array.from(classes), lengths: Int32Array.from(lengths) } };
}

function toInt32Array(bytes: Uint8Array): Int32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Int32Array(bytes.byteLength / 4);
  for (let i = 0; i < values.length; i++) values[i] = view.getInt32(4 * i, true);
  return values;
}

function basisRecord(body: galore.v1.BasisCommit.$Properties): BasisRecord {
  const slots = checkSlots(body.slots ?? [], 'basis.slots');
  return {
    type: 'basis',
    slots,
    keptSlots: checkSlots(body.keptSlots ?? [], 'basis.kept_slots'),
    isGenerated: body.generated ?? false,
    ranks: checkPerSlot(body.ranks ?? [], 'basis.ranks', slots.length, (rank, field) =>
      checkUint(rank, field, 1),
    ),
    similarities: checkSimilarities(body.similarities ?? [], 'basis.similarities', slots.length),
  };
}

/** A list with an entry for each of `count` slots, or with none. */
function checkPerSlot<T>(
  values: readonly T[],
  field: string,
  count: number,
  check: (value: T, field: string) => T,
): readonly T[] {
  if (values.length !== 0) checkUint(values.length, `length of ${field}`, count, count);
  return checkList(values, field, MAX_TENSORS, check);
}

/** Shares of a basis, with room for rounding; -1: there was no old one. */
function checkSimilarities(values: readonly number[], field: string, count: number): readonly number[] {
  return checkPerSlot(values, field, count, (value, name) => {
    if (value === -1 || (value >= 0 && value <= 1.001)) return value;
    throw protocolError('MALFORMED_MESSAGE', `${name} is ${String(value)}; it must be 0 to 1, or -1`);
  });
}

function updateRecord(body: galore.v1.UpdateCommit.$Properties): UpdateRecord {
  return {
    type: 'update',
    learningRate: checkAmount(body.learningRate ?? 0, 'update.learning_rate'),
    tokens: checkCount(body.tokens ?? 0, 'update.tokens'),
    lossSum: body.lossWithheld
      ? null
      : checkLoss(body.lossSum ?? 0, 'update.loss_sum', MAX_MEMBERS * MAX_LOSS_SUM),
    members: checkList(body.members ?? [], 'update.members', MAX_MEMBERS, member),
    cursor: cursor(checkPresent(body.cursor, 'update.cursor')),
    gradientNorm: checkAmount(body.gradientNorm ?? 0, 'update.gradient_norm'),
    slotNorms: checkList(body.slotNorms ?? [], 'update.slot_norms', MAX_TENSORS, checkAmount),
  };
}

function member(body: galore.v1.Member.$Properties, field: string): Member {
  return {
    trainerId: checkTrainerId(body.trainerId ?? '', `${field}.trainer_id`),
    tokens: checkUint(body.tokens ?? 0, `${field}.tokens`),
    positions: checkList(body.positions ?? [], `${field}.positions`, MAX_POSITIONS, (value, name) =>
      checkUint(value, name),
    ),
    ...(body.weight ? { weight: checkAmount(body.weight, `${field}.weight`) } : {}),
    ...(body.gateway ? { gateway: checkTrainerId(body.gateway, `${field}.gateway`) } : {}),
  };
}

function cursor(body: galore.v1.Cursor.$Properties): CursorInfo {
  return {
    next: checkCount(body.next ?? 0, 'update.cursor.next'),
    returned: checkList(body.returned ?? [], 'update.cursor.returned', MAX_POSITIONS, checkCount),
  };
}
