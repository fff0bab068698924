/** Texts that end a connection, made to fit. Pure. */
import { MAX_TEXT_LENGTH } from './limits.ts';

/** Text of a close frame, in bytes of UTF-8 (RFC 6455). */
export const MAX_CLOSE_TEXT_BYTES = 123;
/** Text of a Goodbye, in characters. */
export const MAX_GOODBYE_LENGTH = MAX_TEXT_LENGTH;

/** The longest beginning of `text` that has at most `maxBytes` bytes in UTF-8. */
export function cutText(text: string, maxBytes: number): string {
  const { read } = new TextEncoder().encodeInto(text, new Uint8Array(maxBytes));
  return text.slice(0, read);
}
