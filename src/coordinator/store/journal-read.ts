/** Reads one record of a journal, frame by frame. */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { CheckpointError } from '../../errors.ts';
import { readFully } from '../../files/positional.ts';
import { explaining } from '../../files/system-error.ts';
import { ENTRY_HEADER_BYTES, entryCrc } from './journal-format.ts';
import type { RecordPlace } from './journal-scan.ts';

/**
 * The frames of the record at `place`, read as they are asked for; each has memory of its own. The file
 * may be deleted meanwhile.
 * @throws CheckpointError when the record is damaged, OperatingError when it cannot be read.
 */
export async function* readFrames(place: RecordPlace): AsyncGenerator<Uint8Array, void, void> {
  const { path } = place;
  const handle = await explaining(`read ${path}`, open(path, 'r'));
  try {
    let header = new Uint8Array(ENTRY_HEADER_BYTES);
    let position = place.start;
    await readExactly(handle, path, header, position);
    while (position < place.end) {
      const view = new DataView(header.buffer, header.byteOffset, ENTRY_HEADER_BYTES);
      const length = view.getUint32(0, true);
      const end = position + ENTRY_HEADER_BYTES + length;
      if (end > place.end) throw damagedEntry(path, position, `a length of ${length}`);
      // The next entry's header comes with the frame.
      const bytes = new Uint8Array(length + (end < place.end ? ENTRY_HEADER_BYTES : 0));
      await readExactly(handle, path, bytes, position + ENTRY_HEADER_BYTES);
      const frame = bytes.subarray(0, length);
      if (entryCrc(header.subarray(0, 4), frame) !== view.getUint32(4, true)) {
        throw damagedEntry(path, position, 'a wrong checksum');
      }
      header = bytes.slice(length);
      yield frame;
      position = end;
    }
  } finally {
    await handle.close();
  }
}

async function readExactly(
  handle: FileHandle,
  path: string,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
  const done = await explaining(`read ${path}`, readFully(handle, bytes, position));
  if (done < bytes.length) throw damagedEntry(path, position + done, 'the end of the file');
}

function damagedEntry(path: string, position: number, found: string): CheckpointError {
  return new CheckpointError(path, `${path} is damaged at byte ${position}: ${found}`);
}
