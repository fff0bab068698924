/**
 * The records of a run as one stream with one subject. Everything is published with the sequence that must be the last
 * of the stream, so what another leader has written in between makes it fail. A publication that is not acknowledged
 * is looked for in the stream before it is made again. SHELL.
 */
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import { DeliverPolicy, type JetStreamClient } from '@nats-io/jetstream';
import { CheckpointError } from '../../../errors.ts';
import type { RecordSummary } from '../journal.ts';
import { LeaseLost, StoreUnavailable, type StoredRecord } from '../state-store.ts';
import { storeClock } from '../store-clock.ts';
import type { NatsLink } from './nats-connection.ts';
import { explainNatsError, isOtherStream, isWrongSequence } from './nats-errors.ts';
import type { NatsNames } from './nats-store.ts';
import { Publications } from './publications.ts';
import {
  headersOf,
  nextSequenceAfter,
  packRecord,
  readHeaders,
  RecordReader,
  type MessageFacts,
} from './record-messages.ts';
import { keepingAll } from './stream-config.ts';

/** Messages that are on their way to the server at once, and from it. */
const WINDOW_MESSAGES = 16;
const ANSWER_TIMEOUT_MS = 3_000;
/** How often one append looks for what was not acknowledged and sends the rest again. */
const MAX_TRIES = 4;
const EPOCH_TRIES = 20;
const READ_TRIES = 6;
const READ_GAP_MS = 500;

/** A record of which not everything is stored, as far as it is known. */
interface Unfinished {
  readonly digest: Uint8Array;
  stored: number;
}

export class RecordStream {
  readonly #link: NatsLink;
  readonly #client: JetStreamClient;
  readonly #names: NatsNames;
  /** The last message of the stream, as far as we know, while we lead. */
  #last = 0;
  /** Something we have sent may be stored beyond `#last`. */
  #isUnsure = false;
  #unfinished: Unfinished | null = null;

  constructor(link: NatsLink, client: JetStreamClient, names: NatsNames) {
    this.#link = link;
    this.#client = client;
    this.#names = names;
  }

  /**
   * Makes the stream of a run that is being begun, or takes one without records: several may begin it at once, and one
   * that begins may be killed. Its first message keeps it from ever being empty.
   * @throws CheckpointError when there are records in it
   */
  async create(replicas: number): Promise<void> {
    const { stream, journalSubject } = this.#names;
    const { description } = this.#names;
    const add = this.#link.manager.streams.add(
      keepingAll({ name: stream, subjects: [journalSubject], description, replicas }),
    );
    await add.catch((error: unknown) => {
      throw isOtherStream(error) ? this.#foreign() : error;
    });
    const beginning = this.#publish(new Uint8Array(0), { type: 'epoch', epoch: 0, sequence: 1 }, 0);
    await beginning.catch((error: unknown) => {
      if (!isWrongSequence(error)) throw error;
    });
    const { facts } = await this.#lastMessage();
    if (nextSequenceAfter(facts) > 1) throw this.#foreign();
  }

  /** @throws CheckpointError when the stream is not that of a run */
  async checkOwner(): Promise<void> {
    const { config } = await this.#link.manager.streams.info(this.#names.stream);
    if (config.description !== this.#names.description) throw this.#foreign();
  }

  /**
   * Writes that an epoch begins: from now on whatever an earlier leader sends is refused. The last record before.
   * @throws LeaseLost when a later epoch has begun
   */
  async beginEpoch(epoch: number): Promise<number> {
    for (let attempt = 0; attempt < EPOCH_TRIES; attempt++) {
      const { last, facts } = await this.#lastMessage();
      if (facts.epoch > epoch) throw new LeaseLost(`epoch ${facts.epoch} has begun, after epoch ${epoch}`);
      // A beginning of ours that was not acknowledged.
      const isBegun = facts.epoch === epoch;
      const sequence = nextSequenceAfter(facts);
      try {
        if (!isBegun) await this.#publish(new Uint8Array(0), { type: 'epoch', epoch, sequence }, last);
      } catch (error) {
        if (!isWrongSequence(error)) throw error;
        continue;
      }
      this.#last = isBegun ? last : last + 1;
      this.#isUnsure = false;
      this.#unfinished = null;
      return sequence - 1;
    }
    throw new StoreUnavailable('the stream changes all the time: another coordinator appends to it');
  }

  /** @param check throws when we may not commit any more */
  async append(
    check: () => void,
    epoch: number,
    frames: readonly Uint8Array[],
    summary: RecordSummary,
  ): Promise<void> {
    const payloads = packRecord(frames, this.#link.connection.info?.max_payload);
    const isSame = this.#unfinished !== null && Buffer.from(this.#unfinished.digest).equals(summary.digest);
    if (!isSame) this.#unfinished = { digest: summary.digest, stored: 0 };
    const unfinished = this.#unfinished!;
    let fault: Error = new StoreUnavailable(`record ${summary.sequence} was not acknowledged`);
    for (let attempt = 0; attempt < MAX_TRIES; attempt++) {
      check();
      try {
        if (this.#isUnsure) await this.#findOut(epoch, unfinished);
        if (unfinished.stored < payloads.length) await this.#send(epoch, payloads, summary, unfinished);
        this.#unfinished = null;
        return;
      } catch (error) {
        this.#isUnsure = true;
        if (isWrongSequence(error)) continue;
        fault = explainNatsError(error, this.#link.where, `append record ${summary.sequence}`);
        if (!(fault instanceof StoreUnavailable)) throw fault;
      }
    }
    throw fault;
  }

  /** From `fromSequence` on; without a signal to what is the last record now. */
  async *read(fromSequence: number, signal: AbortSignal | null): AsyncGenerator<StoredRecord, void, void> {
    const newest = await this.#explaining(() => this.#newestMessage());
    // Begun a moment ago: nobody has led it yet.
    const isPast = newest === null || fromSequence >= nextSequenceAfter(newest.facts);
    if (signal === null && isPast) return;
    const last = newest?.last ?? 0;
    const start = newest === null ? 1 : await this.#explaining(() => this.#firstMessageOf(fromSequence));
    const reader = new RecordReader(this.#path);
    let next = fromSequence;
    for await (const message of this.#messages(start, signal === null ? last : null, signal)) {
      const found = readHeaders(message.headers);
      if (found === null)
        throw new CheckpointError(this.#path, `${this.#path} has a message that is no record`);
      const record = reader.accept(found, message.data);
      if (record === null || record.sequence < next) continue;
      if (record.sequence > next) throw this.#missing(next, record.sequence - 1);
      next += 1;
      yield record;
    }
  }

  /** Whole messages before the first one of this record; never the last one. */
  async removeBefore(sequence: number): Promise<void> {
    const { last } = await this.#lastMessage();
    const first = Math.min(last, await this.#firstMessageOf(sequence));
    if (first > 1) await this.#link.manager.streams.purge(this.#names.stream, { seq: first });
  }

  get #path(): string {
    return `${this.#link.where} (stream ${this.#names.stream})`;
  }

  /** Sends what is not stored yet. When it throws, some of that may be. */
  async #send(
    epoch: number,
    payloads: readonly Uint8Array[],
    summary: RecordSummary,
    unfinished: Unfinished,
  ): Promise<void> {
    const { sequence, step, kind, digest } = summary;
    const first = unfinished.stored;
    const base = this.#last;
    const publications = new Publications(WINDOW_MESSAGES);
    for (let i = first; i < payloads.length && publications.failed === null; i++) {
      const facts = { epoch, sequence, step, kind, digest, part: i + 1, parts: payloads.length } as const;
      const expected = base + i - first;
      await publications.add(this.#publish(payloads[i]!, { type: 'part', ...facts }, expected));
    }
    const failed = await publications.settled();
    if (failed !== null) throw failed;
    this.#last = base + payloads.length - first;
    unfinished.stored = payloads.length;
  }

  /** Looks what of ours is stored behind `#last`. @throws LeaseLost when something is that is not ours */
  async #findOut(epoch: number, unfinished: Unfinished): Promise<void> {
    const { state } = await this.#link.manager.streams.info(this.#names.stream);
    while (this.#last < state.last_seq) {
      const message = await this.#link.manager.streams.getMessage(this.#names.stream, {
        seq: this.#last + 1,
      });
      const facts = message === null ? null : readHeaders(message.header);
      if (facts === null || facts.epoch !== epoch) {
        throw new LeaseLost(
          `another coordinator has taken over: epoch ${facts?.epoch ?? 'unknown'} has begun`,
        );
      }
      this.#last += 1;
      const isNext =
        facts.type === 'part' &&
        facts.part === unfinished.stored + 1 &&
        Buffer.from(facts.digest).equals(unfinished.digest);
      if (isNext) unfinished.stored += 1;
    }
    this.#isUnsure = false;
  }

  async #publish(payload: Uint8Array, facts: MessageFacts, expectedLast: number): Promise<void> {
    await this.#client.publish(this.#names.journalSubject, payload, {
      headers: toHeaders(headersOf(facts)),
      timeout: ANSWER_TIMEOUT_MS,
      expect: { lastSequence: expectedLast, streamName: this.#names.stream },
    });
  }

  /** Null: the stream is empty. */
  async #newestMessage(): Promise<{ readonly last: number; readonly facts: MessageFacts } | null> {
    const { state } = await this.#link.manager.streams.info(this.#names.stream);
    return state.last_seq === 0 ? null : await this.#lastMessage();
  }

  async #lastMessage(): Promise<{ readonly last: number; readonly facts: MessageFacts }> {
    const { state } = await this.#link.manager.streams.info(this.#names.stream);
    return { last: state.last_seq, facts: await this.#factsAt(state.last_seq) };
  }

  async #factsAt(seq: number): Promise<MessageFacts> {
    const message = await this.#link.manager.streams.getMessage(this.#names.stream, { seq });
    const facts = message === null ? null : readHeaders(message.header);
    if (facts === null) throw this.#foreign();
    return facts;
  }

  /** The number of the first message that belongs to this record or a later one; one behind the last if there is none. */
  async #firstMessageOf(sequence: number): Promise<number> {
    const { state } = await this.#link.manager.streams.info(this.#names.stream);
    let [low, high] = [state.first_seq, state.last_seq + 1];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await this.#factsAt(middle)).sequence >= sequence) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Messages in order, to number `last` or until the signal. */
  async *#messages(
    start: number,
    last: number | null,
    signal: AbortSignal | null,
  ): AsyncGenerator<{ readonly headers?: MsgHdrs; readonly data: Uint8Array }, void, void> {
    if (isAborted(signal) || (last !== null && start > last)) return;
    const messages = await this.#explaining(async () => {
      const consumer = await this.#client.consumers.get(this.#names.stream, {
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: start,
      });
      return await consumer.consume({ max_messages: WINDOW_MESSAGES });
    });
    const stop = (): void => messages.stop();
    signal?.addEventListener('abort', stop);
    try {
      for await (const message of messages) {
        const { headers: found, data, seq } = message;
        yield found === undefined ? { data } : { headers: found, data };
        if (seq === last || isAborted(signal)) return;
      }
    } finally {
      signal?.removeEventListener('abort', stop);
      stop();
    }
  }

  #foreign(): CheckpointError {
    const advice = 'give this run another name, or delete the stream if nobody needs it';
    return new CheckpointError(this.#path, `${this.#path} belongs to another run; ${advice}`);
  }

  #missing(first: number, last: number): CheckpointError {
    return new CheckpointError(
      this.#path,
      `${this.#path}: records ${first} to ${last} are not there any more`,
    );
  }

  /** A cluster that has just lost a server answers again after some seconds. */
  async #explaining<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work();
      } catch (error) {
        const fault = explainNatsError(error, this.#link.where, 'read records');
        if (!(fault instanceof StoreUnavailable) || attempt === READ_TRIES) throw fault;
        await storeClock.sleep(READ_GAP_MS);
      }
    }
  }
}

function toHeaders(entries: ReadonlyMap<string, string>): MsgHdrs {
  const all = headers();
  for (const [name, value] of entries) all.set(name, value);
  return all;
}

/** It changes while one waits. */
function isAborted(signal: AbortSignal | null): boolean {
  return signal?.aborted ?? false;
}
