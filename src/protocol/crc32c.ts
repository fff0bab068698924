/** CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), eight bytes at a time. Pure. */

/** The CRC-32C of `bytes`; `crc` is that of the bytes before them, 0 at first. */
export function crc32c(bytes: Uint8Array, crc = 0): number {
  throw new Error(`not written yet: ${bytes.length} ${crc}`);
}
