/** From messages to the objects the generated protobuf code writes, one case a kind. Pure. */
import type { galore } from '#messages';
import { CODEC_NUMBERS, STREAM_NUMBERS } from './enums.ts';
import type {
  BasisRecord,
  Member,
  Message,
  Sequences,
  SnapshotHeader,
  TensorInfo,
  UpdateRecord,
} from './messages.ts';

/** What the generated encoder takes. */
export type EnvelopeFields = galore.v1.Envelope.$Properties;

/** The Envelope of a message. */
export function toEnvelope(message: Message): EnvelopeFields {
  switch (message.kind) {
    case 'hello':
      return {
        hello: {
          ...message,
          protocolVersions: [...message.protocolVersions],
          codecs: message.codecs.map((codec) => CODEC_NUMBERS[codec]),
          gateway: message.isGateway ?? false,
        },
      };
    case 'welcome':
      return {
        welcome: {
          ...message,
          snapshot: message.snapshot && header(message.snapshot),
          site: message.site ?? null,
        },
      };
    case 'goodbye':
      return { goodbye: message };
    case 'ready':
      return { ready: message };
    case 'heartbeat':
      return { heartbeat: message };
    case 'notice':
      return { notice: message };
    case 'part':
      return {
        part: { ...message, stream: STREAM_NUMBERS[message.stream], codec: CODEC_NUMBERS[message.codec] },
      };
    case 'stepAssignment':
      return {
        stepAssignment: {
          ...message,
          sequences: message.sequences && sequences(message.sequences),
          refreshSlots: [...message.refreshSlots],
          flushSlots: [...message.flushSlots],
        },
      };
    case 'sketchRequest':
      return { sketchRequest: { ...message, slots: [...message.slots] } };
    case 'sketch':
      return { sketch: message };
    case 'factorAssignment':
      return { factorAssignment: { ...message, slots: [...message.slots], final: message.isFinal } };
    case 'factor':
      return {
        factor: {
          ...message,
          slots: [...message.slots],
          zeroSlots: [...message.zeroSlots],
          similarities: [...message.similarities],
        },
      };
    case 'contribution':
      return {
        contribution: {
          ...message,
          lossWithheld: message.isLossWithheld ?? false,
          members: (message.members ?? []).map(memberFields),
        },
      };
    case 'commit': {
      const { sequence, step, previousDigest, digest, record } = message;
      return { commit: { sequence, step, previousDigest, digest, ...recordField(record) } };
    }
    case 'stateHash':
      return { stateHash: message };
    case 'evaluationAssignment':
      return {
        evaluationAssignment: {
          step: message.step,
          sequences: message.sequences && sequences(message.sequences),
        },
      };
    case 'evaluation':
      return { evaluation: { ...message, lossWithheld: message.isLossWithheld ?? false } };
    case 'snapshotRequest':
      return { snapshotRequest: { ...message, localOnly: message.isLocalOnly } };
    case 'snapshotEnd':
      return { snapshotEnd: { ...message, tensors: message.tensors.map(tensorInfo) } };
    case 'stepRejected':
      return { stepRejected: message };
    case 'updateWithdrawn':
      return { updateWithdrawn: message };
    case 'capacity':
      return { capacity: message };
    default:
      return message satisfies never;
  }
}

function header(snapshot: SnapshotHeader) {
  const { counted, ...told } = snapshot;
  return {
    ...told,
    tensors: snapshot.tensors.map(tensorInfo),
    counted: Object.entries(counted ?? {}).map(([trainerId, step]) => ({ trainerId, step })),
    countedKnown: counted !== undefined,
  };
}

function tensorInfo(info: TensorInfo) {
  return { ...info, shape: [...info.shape], codec: CODEC_NUMBERS[info.codec] };
}

function sequences({ positions, length, tokens, mask, labelled }: Sequences) {
  return {
    ...{ positions: [...positions], length, tokens: littleEndian(tokens), mask },
    ...(labelled === undefined ? {} : { classes: [...labelled.classes], lengths: [...labelled.lengths] }),
  };
}

function littleEndian(tokens: Int32Array): Uint8Array {
  const bytes = new Uint8Array(4 * tokens.length);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < tokens.length; i++) view.setInt32(4 * i, tokens[i]!, true);
  return bytes;
}

function memberFields(member: Member) {
  return { ...member, positions: [...member.positions] };
}

function recordField(record: BasisRecord | UpdateRecord) {
  switch (record.type) {
    case 'basis':
      return {
        basis: {
          slots: [...record.slots],
          keptSlots: [...record.keptSlots],
          generated: record.isGenerated,
          ranks: [...record.ranks],
          similarities: [...record.similarities],
        },
      };
    case 'update': {
      const { learningRate, tokens, gradientNorm } = record;
      const lossWithheld = record.lossSum === null;
      const lossSum = record.lossSum ?? 0;
      const members = record.members.map(memberFields);
      const cursor = { next: record.cursor.next, returned: [...record.cursor.returned] };
      const slotNorms = [...record.slotNorms];
      return {
        update: { learningRate, tokens, lossSum, lossWithheld, gradientNorm, members, cursor, slotNorms },
      };
    }
  }
}
