/** What a frame comes to on a socket: its bytes and the WebSocket header before them (RFC 6455, 5.2). Pure. */

const MASK_BYTES = 4;

/** @param isMasked of what a trainer sends */
export function socketBytes(frameBytes: number, isMasked: boolean): number {
  const lengthBytes = frameBytes < 126 ? 0 : frameBytes < 65_536 ? 2 : 8;
  return 2 + lengthBytes + (isMasked ? MASK_BYTES : 0) + frameBytes;
}
