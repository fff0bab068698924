/** SHA-256 of a file of any size, read in pieces. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { readFully } from './positional.ts';

/** Small enough that hashing a piece does not hold up a heartbeat. */
const PIECE_BYTES = 1024 * 1024;

/**
 * Reads `path` once from end to end. `onPiece` sees every piece with its position; it is only good
 * during the call. Returns length and hash in hexadecimal.
 */
export async function hashFile(
  path: string,
  onPiece: (bytes: Uint8Array, position: number) => void = () => {},
): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const handle = await open(path, 'r');
  try {
    const hash = createHash('sha256');
    const { size } = await handle.stat();
    const piece = new Uint8Array(Math.min(PIECE_BYTES, size + 1));
    let position = 0;
    for (;;) {
      const done = await readFully(handle, piece, position);
      const bytes = piece.subarray(0, done);
      hash.update(bytes);
      onPiece(bytes, position);
      position += done;
      if (done < piece.length) return { bytes: position, sha256: hash.digest('hex') };
    }
  } finally {
    await handle.close();
  }
}
