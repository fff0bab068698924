/** What errors of NATS mean to a store: it passes, there is no room, or it is for a person to mend. */
import { errors } from '@nats-io/transport-node';
import { JetStreamApiError } from '@nats-io/jetstream';
import { OperatingError } from '../../../errors.ts';
import { LeaseLost, StoreFull, StoreUnavailable } from '../state-store.ts';

/** Codes of JetStream (err_code) for a stream, an account or a server that has no room for more. */
const FULL_CODES = [10002, 10023, 10028, 10047, 10077];
/** A sequence was expected that is not the last one. */
const WRONG_SEQUENCE_CODES = [10071, 10164];
const STREAM_NOT_FOUND = 10059;
const STREAM_EXISTS = 10058;
/** Replicas that this server, or so few of them, cannot have. */
const REPLICA_CODES = [10005, 10074];

export function isWrongSequence(error: unknown): boolean {
  return error instanceof JetStreamApiError && WRONG_SEQUENCE_CODES.includes(error.code);
}

export function isStreamNotFound(error: unknown): boolean {
  return error instanceof JetStreamApiError && error.code === STREAM_NOT_FOUND;
}

/** Nobody answers for JetStream. */
export function isNotEnabled(error: unknown): boolean {
  return error instanceof Error && error.name === 'JetStreamNotEnabled';
}

/** A stream of this name is there, made by somebody else. */
export function isOtherStream(error: unknown): boolean {
  return error instanceof JetStreamApiError && error.code === STREAM_EXISTS;
}

export function isTooFewServers(error: unknown): boolean {
  return error instanceof JetStreamApiError && REPLICA_CODES.includes(error.code);
}

/** `action`: what could not be done, such as `append record 7`. `where` holds no secret. */
export function explainNatsError(error: unknown, where: string, action: string): Error {
  if (error instanceof StoreUnavailable || error instanceof StoreFull || error instanceof LeaseLost)
    return error;
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof JetStreamApiError) {
    if (FULL_CODES.includes(error.code)) {
      const advice = 'make room, or raise max_file_store of the server or the limits of the account';
      return new StoreFull(`JetStream at ${where} is full (${text}); ${advice}`, { cause: error });
    }
    if (isStreamNotFound(error)) {
      const told = `cannot ${action}: ${where} does not have the run's stream any more; it was deleted`;
      return new OperatingError(told, { cause: error });
    }
    if (error.status === 503) return unavailable(error, where, action, text);
    return new OperatingError(`cannot ${action}: NATS at ${where} refuses: ${text}`, { cause: error });
  }
  if (error instanceof errors.PermissionViolationError) {
    const told = `cannot ${action}: NATS at ${where} does not permit ${error.operation} of ${error.subject}`;
    return new OperatingError(told, { cause: error });
  }
  if (isPassing(error)) return unavailable(error, where, action, text);
  return error instanceof Error ? error : new Error(text);
}

/** Does it; what fails is explained. @throws as explainNatsError says */
export async function explainingNats<T>(where: string, action: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw explainNatsError(error, where, action);
  }
}

function unavailable(cause: unknown, where: string, action: string, text: string): StoreUnavailable {
  return new StoreUnavailable(`cannot ${action}: NATS at ${where} does not answer (${text})`, { cause });
}

function isPassing(error: unknown): boolean {
  return (
    isNotEnabled(error) || // nobody answered: a stream may be choosing its leader
    error instanceof errors.TimeoutError ||
    error instanceof errors.NoRespondersError ||
    error instanceof errors.RequestError ||
    error instanceof errors.ConnectionError ||
    error instanceof errors.ClosedConnectionError ||
    error instanceof errors.DrainingConnectionError
  );
}
