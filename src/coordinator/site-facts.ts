/** What a trainer with data of its own is told in the Welcome: the tokenizer, and what the run began with. */
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { SiteFacts } from '../protocol/messages.ts';

/** Beside it config.json, the configuration and the list of tensors must fit into a message. */
export const MAX_TOKENIZER_BYTES = 512 * 1024;

/**
 * @param tokenizerJson undefined: the bytes themselves are the tokens
 * @param baseSha256 of the model folder that the run began with, in hexadecimal; empty: it began with none
 */
export function siteFacts(tokenizerJson: string | undefined, baseSha256: string): SiteFacts {
  const json = tokenizerJson ?? '';
  const zipped = json === '' ? new Uint8Array(0) : new Uint8Array(gzipSync(json, { level: 9 }));
  return {
    tokenizer: zipped.length <= MAX_TOKENIZER_BYTES ? zipped : new Uint8Array(0),
    tokenizerSha256:
      json === '' ? new Uint8Array(0) : new Uint8Array(createHash('sha256').update(json).digest()),
    baseSha256: new Uint8Array(Buffer.from(baseSha256, 'hex')),
  };
}
