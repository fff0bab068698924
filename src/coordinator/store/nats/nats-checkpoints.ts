/**
 * Checkpoints in NATS: the files are objects, and an entry of the key-value bucket that lists them comes last: without
 * it the checkpoint does not exist. Objects carry the epoch of the leader that has put them, so two leaders never mix
 * theirs. SHELL.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import type { KV } from '@nats-io/kv';
import type { ObjectStore } from '@nats-io/obj';
import { CheckpointError } from '../../../errors.ts';
import { writeFully } from '../../../files/positional.ts';
import { explaining } from '../../../files/system-error.ts';
import { placeOf, readCheckpointFiles, receiveCheckpoint } from '../checkpoint-copy.ts';
import { checkpointName } from '../checkpoint-format.ts';
import type { CheckpointStore, Lease, StoredCheckpoint } from '../state-store.ts';
import { explainNatsError } from './nats-errors.ts';

const KEY_PREFIX = 'checkpoint.';
const CHUNK_BYTES = 512 * 1024;

/** What the entry says. */
interface Entry extends StoredCheckpoint {
  readonly epoch: number;
  readonly files: readonly string[];
}

/** What it needs of the store. */
export interface CheckpointSurroundings {
  readonly where: string;
  readonly kv: () => Promise<KV>;
  readonly objects: () => Promise<ObjectStore>;
  /** @throws LeaseLost, StoreUnavailable */
  readonly check: (lease: Lease) => void;
}

export class NatsCheckpoints implements CheckpointStore {
  readonly #around: CheckpointSurroundings;

  constructor(around: CheckpointSurroundings) {
    this.#around = around;
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
    const { path, files, ...stored } = await readCheckpointFiles(checkpointsDir, step);
    const { epoch } = lease;
    await this.#explaining(`store the checkpoint of step ${step}`, async () => {
      const objects = await this.#around.objects();
      for (const file of files) {
        this.#around.check(lease);
        const bytes = Readable.toWeb(createReadStream(join(path, file))) as ReadableStream<Uint8Array>;
        const options = { max_chunk_size: CHUNK_BYTES };
        await objects.put({ name: objectName(step, epoch, file), options }, bytes);
      }
      this.#around.check(lease);
      const entry: Entry = { ...stored, epoch, files };
      await (await this.#around.kv()).put(keyOf(step), JSON.stringify(entry));
    });
  }

  async get(checkpointsDir: string, step: number): Promise<void> {
    const entry = (await this.#entries()).find((found) => found.step === step);
    if (entry === undefined) {
      const { where } = this.#around;
      throw new CheckpointError(where, `${where} has no checkpoint of step ${step}`);
    }
    await receiveCheckpoint(checkpointsDir, step, async (folder) => {
      for (const file of entry.files) {
        const path = await placeOf(folder, file);
        await this.#explaining(`fetch the checkpoint of step ${step}`, () =>
          this.#fetch(objectName(step, entry.epoch, file), path),
        );
      }
    });
  }

  async remove(lease: Lease, step: number): Promise<void> {
    this.#around.check(lease);
    await this.#explaining(`delete the checkpoint of step ${step}`, async () => {
      const kv = await this.#around.kv();
      if ((await kv.get(keyOf(step)))?.operation === 'PUT') await kv.purge(keyOf(step));
      const objects = await this.#around.objects();
      const entries = await this.#entries();
      const wanted = new Set(
        entries.flatMap(({ step: kept, epoch, files }) => files.map((file) => objectName(kept, epoch, file))),
      );
      // Also what leaders that died have left half done.
      for (const { name } of await objects.list()) {
        const place = /^step-(\d+)\.e(\d+)\//.exec(name);
        const isOld = Number(place?.[2]) < lease.epoch || Number(place?.[1]) <= step;
        if (isOld && !wanted.has(name)) await objects.delete(name);
      }
    });
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

  async #fetch(name: string, path: string): Promise<void> {
    const { where } = this.#around;
    const object = await (await this.#around.objects()).get(name);
    if (object === null) throw new CheckpointError(where, `${where} has no object ${name}`);
    const handle = await explaining(`write ${path}`, open(path, 'wx'));
    try {
      let position = 0;
      const reader = object.data.getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        await explaining(`write ${path}`, writeFully(handle, piece.value, position));
        position += piece.value.length;
      }
      const fault = (await object.error) ?? null;
      if (fault !== null)
        throw new CheckpointError(where, `object ${name} of ${where} is damaged: ${fault.message}`);
      await explaining(`write ${path}`, handle.sync());
    } finally {
      await handle.close();
    }
  }

  async #explaining<T>(action: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw explainNatsError(error, this.#around.where, action);
    }
  }
}

function keyOf(step: number): string {
  return `${KEY_PREFIX}${checkpointName(step)}`;
}

function objectName(step: number, epoch: number, file: string): string {
  return `${checkpointName(step)}.e${epoch}/${file}`;
}
