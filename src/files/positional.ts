/** Whole reads and writes at a position: the system may do less than asked for in one call. */
import type { FileHandle } from 'node:fs/promises';

/** One call never asks for more: the system's own limit is 2 GiB. */
const MAX_CALL_BYTES = 64 * 1024 * 1024;
/** Buffers handed to one writev; Linux takes 1024. */
const MAX_CALL_BUFFERS = 512;

/** Fills `target` from `position` on. Returns the bytes read: fewer than its length only at the end of the file. */
export async function readFully(handle: FileHandle, target: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < target.length) {
    const length = Math.min(target.length - done, MAX_CALL_BYTES);
    const { bytesRead } = await handle.read(target, done, length, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** Writes all of `bytes` at `position`. */
export async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const length = Math.min(bytes.length - done, MAX_CALL_BYTES);
    const { bytesWritten } = await handle.write(bytes, done, length, position + done);
    done += bytesWritten;
  }
}

/** Writes all of `buffers`, one after the other, from `position` on. Returns the bytes written. */
export async function writevFully(
  handle: FileHandle,
  buffers: readonly Uint8Array[],
  position: number,
): Promise<number> {
  let end = position;
  for (let first = 0; first < buffers.length; first += MAX_CALL_BUFFERS) {
    const group = buffers.slice(first, first + MAX_CALL_BUFFERS);
    const total = group.reduce((sum, buffer) => sum + buffer.length, 0);
    const { bytesWritten } = await handle.writev(group, end);
    if (bytesWritten < total) await writeRest(handle, group, bytesWritten, end);
    end += total;
  }
  return end - position;
}

/** What a short writev left over: the buffers from byte `done` on. */
async function writeRest(
  handle: FileHandle,
  buffers: readonly Uint8Array[],
  done: number,
  position: number,
): Promise<void> {
  let offset = 0;
  for (const buffer of buffers) {
    const skip = Math.min(Math.max(done - offset, 0), buffer.length);
    if (skip < buffer.length) await writeFully(handle, buffer.subarray(skip), position + offset + skip);
    offset += buffer.length;
  }
}
