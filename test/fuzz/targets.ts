/** All that is fuzzed, by name. */
import type { FuzzTarget } from './target.ts';
import { codecTarget } from './targets/codec.ts';
import { configTarget } from './targets/config.ts';
import { envelopeTarget } from './targets/envelope.ts';
import { journalTarget } from './targets/journal.ts';
import { safetensorsTarget } from './targets/safetensors.ts';

export const TARGETS: Readonly<Record<string, () => FuzzTarget>> = {
  envelope: envelopeTarget,
  codec: codecTarget,
  journal: journalTarget,
  safetensors: safetensorsTarget,
  config: configTarget,
};
