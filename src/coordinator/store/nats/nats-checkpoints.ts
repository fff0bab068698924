/**
 * Checkpoints in NATS: the files are messages of a stream, and an entry of the key-value bucket that lists them comes
 * last: without it the checkpoint does not exist. Every upload has subjects of its own, so two never mix. They travel
 * on a connection of their own: nothing that is urgent waits behind them. SHELL.
 */
import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { KV } from '@nats-io/kv';
import { DeliverPolicy, jetstream, type JetStreamClient } from '@nats-io/jetstream';
import { headers, type MsgHdrs, type NatsConnection } from '@nats-io/transport-node';
import { CheckpointError } from '../../../errors.ts';
import { writeFully } from '../../../files/positional.ts';
import { explaining } from '../../../files/system-error.ts';
import { placeOf, readCheckpointFiles, receiveCheckpoint } from '../checkpoint-copy.ts';
import { checkpointName } from '../checkpoint-format.ts';
import { StoreUnavailable, type CheckpointStore, type Lease, type StoredCheckpoint } from '../state-store.ts';
import type { NatsLink } from './nats-connection.ts';
import { explainingNats } from './nats-errors.ts';
import type { NatsNames } from './nats-store.ts';
import { Publications } from './publications.ts';
import { roomIn } from './record-messages.ts';
import { keepingAll } from './stream-config.ts';

const KEY_PREFIX = 'checkpoint.';
/** Where in its file the bytes of a message belong. */
const OFFSET = 'Galore-Offset';
const CHUNK_BYTES = 512 * 1024;
/** Messages that are on their way to the server at once, and how long one may take over a slow link. */
const WINDOW_MESSAGES = 8;
const ANSWER_TIMEOUT_MS = 10_000;
/** Messages that are asked for at once, and how long all of them may take. */
const BATCH_MESSAGES = 16;
const BATCH_TIMEOUT_MS = 30_000;

interface StoredFile {
  readonly name: string;
  readonly messages: number;
}

/** What the entry says. */
interface Entry extends StoredCheckpoint {
  /** The part of the subjects that is this upload's own: `step-000060-e2-1f0c9a7b`. */
  readonly upload: string;
  readonly files: readonly StoredFile[];
}

/** What it needs of the store. */
export interface CheckpointSurroundings {
  readonly link: NatsLink;
  readonly names: NatsNames;
  readonly kv: () => Promise<KV>;
  /** @throws LeaseLost, StoreUnavailable */
  readonly check: (lease: Lease) => void;
}

export class NatsCheckpoints implements CheckpointStore {
  readonly #around: CheckpointSurroundings;
  readonly #where: string;
  readonly #stream: string;
  readonly #subject: string;
  #connection: Promise<NatsConnection> | null = null;

  constructor(around: CheckpointSurroundings) {
    this.#around = around;
    this.#where = around.link.where;
    this.#stream = around.names.checkpointStream;
    this.#subject = around.names.checkpointSubject;
  }

  /** Makes the stream of a run that is being begun, unless it is there. */
  async create(replicas: number): Promise<void> {
    const { link, names } = this.#around;
    const { description } = names;
    await link.manager.streams.add(
      keepingAll({ name: this.#stream, subjects: [`${this.#subject}.*.*`], description, replicas }),
    );
  }

  async list(): Promise<readonly StoredCheckpoint[]> {
    const entries = await this.#entries();
    return entries.map(({ step, sequence, digest, weightsSha256 }) => ({
      step,
      sequence,
      digest,
      weightsSha256,
    }));
  }

  async put(lease: Lease, checkpointsDir: string, step: number): Promise<void> {
    const { path, files: names, ...stored } = await readCheckpointFiles(checkpointsDir, step);
    const upload = `${checkpointName(step)}-e${lease.epoch}-${randomUUID().slice(0, 8)}`;
    await this.#explaining(`store the checkpoint of step ${step}`, async () => {
      const files = await this.#upload(lease, path, names, upload);
      this.#around.check(lease);
      const entry: Entry = { ...stored, upload, files };
      await (await this.#around.kv()).put(keyOf(step), JSON.stringify(entry));
    });
  }

  async get(checkpointsDir: string, step: number): Promise<void> {
    const entry = (await this.#entries()).find((found) => found.step === step);
    if (entry === undefined) {
      throw new CheckpointError(this.#where, `${this.#where} has no checkpoint of step ${step}`);
    }
    const action = `fetch the checkpoint of step ${step}`;
    await receiveCheckpoint(checkpointsDir, step, async (folder) => {
      for (const [index, { name, messages }] of entry.files.entries()) {
        const path = await placeOf(folder, name);
        await this.#explaining(action, () =>
          this.#fetch(this.#subjectOf(entry.upload, index), messages, path),
        );
      }
    });
  }

  async remove(lease: Lease, step: number): Promise<void> {
    this.#around.check(lease);
    await this.#explaining(`delete the checkpoint of step ${step}`, async () => {
      const kv = await this.#around.kv();
      if ((await kv.get(keyOf(step)))?.operation === 'PUT') await kv.purge(keyOf(step));
      const wanted = new Set((await this.#entries()).map(({ upload }) => upload));
      // Also what leaders that died have left half done.
      for (const upload of await this.#uploads()) {
        const [, of, epoch] = /^step-(\d+)-e(\d+)-/.exec(upload) ?? [];
        const isOld = Number(epoch) < lease.epoch || Number(of) <= step;
        if (isOld && !wanted.has(upload)) await this.#purge(upload);
      }
    });
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => null);
    await connection?.close();
  }

  async #entries(): Promise<readonly Entry[]> {
    return await this.#explaining('list the checkpoints', async () => {
      const kv = await this.#around.kv();
      const names: string[] = [];
      for await (const key of await kv.keys(`${KEY_PREFIX}>`)) names.push(key);
      const entries: Entry[] = [];
      for (const name of names) {
        const entry = await kv.get(name);
        if (entry?.operation === 'PUT') entries.push(entry.json<Entry>());
      }
      return entries.sort((a, b) => a.step - b.step);
    });
  }

  /** All files; of an upload that fails nothing is left, unless NATS is away. */
  async #upload(
    lease: Lease,
    path: string,
    names: readonly string[],
    upload: string,
  ): Promise<readonly StoredFile[]> {
    try {
      const files: StoredFile[] = [];
      for (const [index, name] of names.entries()) {
        const subject = this.#subjectOf(upload, index);
        files.push({ name, messages: await this.#send(lease, join(path, name), subject) });
      }
      return files;
    } catch (error) {
      await this.#purge(upload).catch(() => {}); // what is left goes with older checkpoints
      throw error;
    }
  }

  /** One file, a window of messages at once; how many there were. */
  async #send(lease: Lease, path: string, subject: string): Promise<number> {
    const client = await this.#client();
    const room = roomIn(this.#around.link.connection.info?.max_payload);
    const pieces = createReadStream(path, { highWaterMark: Math.min(CHUNK_BYTES, room) });
    const expect = { streamName: this.#stream };
    const publications = new Publications(WINDOW_MESSAGES);
    let offset = 0;
    try {
      for await (const piece of pieces as AsyncIterable<Buffer>) {
        this.#around.check(lease);
        const options = { headers: offsetHeader(offset), timeout: ANSWER_TIMEOUT_MS, expect };
        offset += piece.length;
        await publications.add(client.publish(subject, piece, options));
        if (publications.failed !== null) break;
      }
    } finally {
      await publications.settled();
    }
    if (publications.failed !== null) throw publications.failed;
    return publications.count;
  }

  /** @throws CheckpointError when not all of it is there */
  async #fetch(subject: string, messages: number, path: string): Promise<void> {
    const handle = await explaining(`write ${path}`, open(path, 'wx'));
    try {
      if (messages > 0) {
        await this.#receive(subject, messages, (bytes, offset) =>
          explaining(`write ${path}`, writeFully(handle, bytes, offset)),
        );
      }
      await explaining(`write ${path}`, handle.sync());
    } finally {
      await handle.close();
    }
  }

  async #receive(
    subject: string,
    messages: number,
    write: (bytes: Uint8Array, offset: number) => Promise<void>,
  ): Promise<void> {
    await this.#checkThere(subject, messages);
    const { consumers } = await this.#client();
    const options = { filter_subjects: subject, deliver_policy: DeliverPolicy.All };
    const consumer = await consumers.get(this.#stream, options);
    // One that was sent again is there twice, with the same bytes.
    const had = new Set<number>();
    while (had.size < messages) {
      const before = had.size;
      const wanted = Math.min(BATCH_MESSAGES, messages - had.size);
      const batch = await consumer.fetch({ max_messages: wanted, expires: BATCH_TIMEOUT_MS });
      for await (const { headers: found, data } of batch) {
        const offset = Number(found?.get(OFFSET));
        await write(data, offset);
        had.add(offset);
      }
      if (had.size > before) continue;
      await this.#checkThere(subject, messages);
      throw new StoreUnavailable(`NATS at ${this.#where} sends nothing of ${subject}`);
    }
    await consumer.delete().catch(() => {}); // the server does so by itself, later
  }

  /** A checkpoint may be deleted while it is fetched. */
  async #checkThere(subject: string, messages: number): Promise<void> {
    const { manager } = this.#around.link;
    const { state } = await manager.streams.info(this.#stream, { subjects_filter: subject });
    const count = state.subjects?.[subject] ?? 0;
    if (count >= messages) return;
    const told = `${this.#where} has ${count} of the ${messages} messages of ${subject}`;
    throw new CheckpointError(this.#where, `${told}: the checkpoint was deleted, or is damaged`);
  }

  /** What is in the stream, wanted or not. */
  async #uploads(): Promise<ReadonlySet<string>> {
    const { manager } = this.#around.link;
    const { state } = await manager.streams.info(this.#stream, { subjects_filter: `${this.#subject}.>` });
    const start = this.#subject.length + 1;
    return new Set(Object.keys(state.subjects ?? {}).map((subject) => subject.slice(start).split('.')[0]!));
  }

  async #purge(upload: string): Promise<void> {
    const filter = `${this.#subject}.${upload}.*`;
    await this.#around.link.manager.streams.purge(this.#stream, { filter });
  }

  #subjectOf(upload: string, index: number): string {
    return `${this.#subject}.${upload}.${index}`;
  }

  async #client(): Promise<JetStreamClient> {
    this.#connection ??= this.#around.link.openAnother();
    try {
      return jetstream(await this.#connection);
    } catch (error) {
      this.#connection = null;
      throw error;
    }
  }

  async #explaining<T>(action: string, work: () => Promise<T>): Promise<T> {
    return await explainingNats(this.#where, action, work);
  }
}

function keyOf(step: number): string {
  return `${KEY_PREFIX}${checkpointName(step)}`;
}

function offsetHeader(offset: number): MsgHdrs {
  const all = headers();
  all.set(OFFSET, String(offset));
  return all;
}
