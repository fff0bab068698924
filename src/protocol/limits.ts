/** Limits of the wire. docs/protocol.md has the same table and a test compares the two. Pure. */

/** Payload of one Part. */
export const MAX_PART_BYTES = 1024 * 1024;
/** One WebSocket message, either way: a full Part and its fields. */
export const MAX_FRAME_BYTES = MAX_PART_BYTES + 64 * 1024;
/** The first message of a connection. */
export const MAX_HELLO_BYTES = 8 * 1024;
/** Received on a connection before its Hello is accepted, the head of the HTTP request not counted. */
export const MAX_HANDSHAKE_BYTES = 64 * 1024;
/** A message of texts and single numbers. */
export const MAX_SMALL_MESSAGE_BYTES = 16 * 1024;
/** A message with lists of slots. */
export const MAX_LIST_MESSAGE_BYTES = 64 * 1024;
/** trainer_id, in characters. */
export const MAX_TRAINER_ID_LENGTH = 64;
/** Names, tokens and such: run_name, run_id, token, software, device, activity. */
export const MAX_NAME_LENGTH = 256;
/** Texts for people: reasons and notices. */
export const MAX_TEXT_LENGTH = 2048;
/** config_json and model_json each, in characters. */
export const MAX_JSON_LENGTH = 128 * 1024;
/** Tensors of a snapshot; slots in a list. */
export const MAX_TENSORS = 8192;
/** Dimensions of a tensor. */
export const MAX_DIMENSIONS = 8;
/** Name of a tensor, in characters. */
export const MAX_TENSOR_NAME_LENGTH = 200;
/** Protocol versions in a Hello. */
export const MAX_VERSIONS = 16;
/** Of `Hello.codecs`. */
export const MAX_CODECS = 32;
/** Labels that sequences are classified by. */
export const MAX_CLASSES = 10_000;
/** Trainers of one step. */
export const MAX_MEMBERS = 4096;
/** Positions in one list: sequences of a trainer, positions returned to the data order. */
export const MAX_POSITIONS = 65_536;
/** Tokens, mask and positions of the sequences of one assignment. */
export const MAX_SEQUENCES_BYTES = 1024 * 1024;
/**
 * Magnitude of a number in a contribution, sketch or factor: beyond it a square, or the sum of a few, may not be
 * finite any more, on any side. An honest gradient is nowhere near.
 */
export const MAX_MAGNITUDE = 1e18;
/** Magnitude of a trainer's sum of losses, in nats; sums of it over all trainers stay finite. */
export const MAX_LOSS_SUM = 1e30;
/** SHA-256. */
export const DIGEST_BYTES = 32;

/** trainer_id: it becomes part of log lines and file names of nothing, yet stays plain. */
export const TRAINER_ID_PATTERN = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * How many sequences of `length` tokens (labels included) fit into one assignment, masks included. A
 * run whose batch_size is larger could not be given to a single trainer: its configuration is refused.
 */
export function maxSequencesPerAssignment(length: number): number {
  const maskBytes = length - 1;
  const positionBytes = 15; // position, class and length: a uint32 varint each at most
  const bySize = Math.floor(MAX_SEQUENCES_BYTES / (4 * length + maskBytes + positionBytes));
  return Math.min(bySize, MAX_POSITIONS);
}
