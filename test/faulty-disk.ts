/**
 * A disk that fails: replaces the calls of node:fs/promises that change something, for the whole
 * process, so tests that use it run serially in a file of their own. It counts these calls and fails
 * from the n-th on (the process was killed: nothing later happens, clean-up neither), or only where the
 * test says so (disk full). After a power failure what was not synced is lost: bytes become zeros,
 * renames are undone.
 */
import fs from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** A call that changes something on disk. */
export interface DiskCall {
  /** From 1. */
  readonly number: number;
  readonly name: string;
}

/** What a test decides about a call: fail with this code, or go ahead. */
export type Decide = (call: DiskCall) => string | null;

interface Unsynced {
  readonly path: string;
  readonly ranges: { readonly start: number; readonly bytes: number }[];
}

const HANDLE_CALLS = ['write', 'writev', 'truncate', 'sync', 'datasync'] as const;
const PATH_CALLS = ['mkdir', 'mkdtemp', 'rename', 'rm', 'unlink', 'link'] as const;

type Call = (...args: unknown[]) => Promise<unknown>;

export class FaultyDisk {
  /** Calls so far, failed ones included. */
  calls = 0;
  readonly #decide: Decide;
  readonly #restores: (() => void)[] = [];
  readonly #pathOf = new WeakMap<object, string>();
  readonly #unsynced = new Map<number, Unsynced>(); // by inode
  readonly #renames: { readonly from: string; readonly to: string }[] = [];
  readonly #unsyncedRenames: { readonly from: string; readonly to: string; readonly parent: string }[] = [];

  private constructor(decide: Decide) {
    this.#decide = decide;
  }

  /** Every changing call from number `n` on fails; the n-th itself is half done if it is a write. */
  static async crashingAt(n: number): Promise<FaultyDisk> {
    return await FaultyDisk.install(({ number }) => (number >= n ? 'EIO' : null));
  }

  static async install(decide: Decide): Promise<FaultyDisk> {
    const disk = new FaultyDisk(decide);
    const handle = await fs.open('/dev/null', 'r');
    const prototype = Object.getPrototypeOf(handle) as object;
    await handle.close();
    disk.#wrapHandles(prototype as Record<string, Call>);
    disk.#wrapPaths(fs as unknown as Record<string, Call>);
    syncBuiltinESMExports();
    return disk;
  }

  /** The disk works again. */
  restore(): void {
    for (const restore of this.#restores.splice(0)) restore();
    syncBuiltinESMExports();
  }

  /** Restores the disk and takes away what was not synced. */
  async failPower(): Promise<void> {
    this.restore();
    for (const { path, ranges } of this.#unsynced.values()) {
      const handle = await fs.open(this.#pathNow(path), 'r+').catch(() => null);
      if (handle === null) continue;
      const { size } = await handle.stat();
      for (const { start, bytes } of ranges) {
        await handle.write(new Uint8Array(Math.max(0, Math.min(bytes, size - start))), 0, undefined, start);
      }
      await handle.close();
    }
    for (const { from, to } of this.#unsyncedRenames.reverse()) await fs.rename(to, from).catch(() => {});
  }

  /** Where a file opened as `path` is after all renames. */
  #pathNow(path: string): string {
    for (const { from, to } of this.#renames) {
      if (path === from || path.startsWith(`${from}/`)) path = to + path.slice(from.length);
    }
    return path;
  }

  #fails(name: string): NodeJS.ErrnoException | null {
    const code = this.#decide({ number: ++this.calls, name });
    if (code === null) return null;
    return Object.assign(new Error(`${code}: made by the test, ${name}`), { code, syscall: name });
  }

  #wrapHandles(prototype: Record<string, Call>): void {
    const intercept = this.#intercept.bind(this);
    for (const name of HANDLE_CALLS) {
      const original = prototype[name] as Call;
      this.#restores.push(() => (prototype[name] = original));
      prototype[name] = async function (this: FileHandle, ...args: unknown[]) {
        return await intercept(this, name, original, args);
      };
    }
  }

  async #intercept(handle: FileHandle, name: string, original: Call, args: unknown[]): Promise<unknown> {
    const error = this.#fails(name);
    if (error !== null) {
      if (name === 'write' || name === 'writev') await this.#halfWrite(handle, original, name, args);
      throw error;
    }
    const result = await original.apply(handle, args);
    await this.#note(handle, name, args, result);
    return result;
  }

  #wrapPaths(target: Record<string, Call>): void {
    for (const name of PATH_CALLS) {
      const original = target[name] as Call;
      this.#restores.push(() => (target[name] = original));
      target[name] = async (...args: unknown[]) => {
        const error = this.#fails(name);
        if (error !== null) throw error;
        const result = await original(...args);
        if (name === 'rename') {
          const [from, to] = args as [string, string];
          this.#renames.push({ from, to });
          this.#unsyncedRenames.push({ from, to, parent: to.slice(0, to.lastIndexOf('/')) });
        }
        return result;
      };
    }
    const open = target['open'] as Call;
    this.#restores.push(() => (target['open'] = open));
    target['open'] = async (...args: unknown[]) => {
      const [path, flags] = args as [string, string];
      const error = flags === 'r' ? null : this.#fails('open');
      if (error !== null) throw error;
      const handle = (await open(...args)) as FileHandle;
      this.#pathOf.set(handle, path);
      return handle;
    };
  }

  /** The first half of what a failed write was to write. */
  async #halfWrite(handle: FileHandle, original: Call, name: string, args: unknown[]): Promise<void> {
    if (name === 'write') {
      const [bytes, offset, length, position] = args as [Uint8Array, number, number, number];
      const half = await original.call(handle, bytes, offset, length >> 1, position);
      await this.#note(handle, name, args, half);
    } else {
      const [buffers, position] = args as [Uint8Array[], number];
      const half = await original.call(handle, buffers.slice(0, buffers.length >> 1), position);
      await this.#note(handle, name, args, half);
    }
  }

  async #note(handle: FileHandle, name: string, args: unknown[], result: unknown): Promise<void> {
    const path = this.#pathOf.get(handle) ?? '';
    if (name === 'sync' || name === 'datasync') {
      this.#unsynced.delete((await handle.stat()).ino);
      const kept = this.#unsyncedRenames.filter(({ parent }) => parent !== path);
      this.#unsyncedRenames.splice(0, this.#unsyncedRenames.length, ...kept);
    } else if (name !== 'truncate') {
      const { ino } = await handle.stat();
      const start = args[name === 'write' ? 3 : 1] as number;
      const { bytesWritten } = result as { bytesWritten: number };
      const file = this.#unsynced.get(ino) ?? { path, ranges: [] };
      file.ranges.push({ start, bytes: bytesWritten });
      this.#unsynced.set(ino, file);
    }
  }
}
