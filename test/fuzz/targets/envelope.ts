/** Frames of a peer, as the server and the network thread take them apart. */
import { galore } from '#messages';
import fc from 'fast-check';
import { ProtocolError } from '../../../src/errors.ts';
import { toEnvelope } from '../../../src/protocol/encode.ts';
import { decodeEnvelope, encodeEnvelope } from '../../../src/protocol/envelope.ts';
import { frameKind } from '../../../src/protocol/frame-kind.ts';
import type { Peer } from '../../../src/protocol/messages.ts';
import { SAMPLES } from '../../protocol/samples.ts';
import { mutateBytes, mutateTree } from '../mutate.ts';
import { Broken, type FuzzTarget } from '../target.ts';

const { Envelope } = galore.v1;
const PEERS: readonly Peer[] = ['trainer', 'coordinator'];

/** Messages with a field that cannot be; what protobufjs refuses to write is left out. */
function encodeLoosely(tree: unknown): Uint8Array | null {
  try {
    return Envelope.encode(tree as never).finish();
  } catch {
    return null;
  }
}

export function envelopeTarget(): FuzzTarget {
  const frames = SAMPLES.map(({ message }) => encodeEnvelope(message));
  const noise = fc.sample(fc.uint8Array({ maxLength: 200 }), { seed: 1, numRuns: 100 });
  return {
    name: 'envelope',
    refusals: [ProtocolError],
    generate(dice) {
      if (dice.oneIn(20)) return dice.oneOf(noise);
      if (dice.oneIn(2)) return mutateBytes(dice.oneOf(frames), dice, frames);
      const frame = encodeLoosely(mutateTree(toEnvelope(dice.oneOf(SAMPLES).message), dice));
      if (frame === null) return dice.oneOf(frames);
      return dice.oneIn(3) ? mutateBytes(frame, dice, frames) : frame;
    },
    decode(input) {
      frameKind(input);
      const refusals: ProtocolError[] = [];
      for (const from of PEERS) {
        try {
          const again = encodeEnvelope(decodeEnvelope(input, from));
          if (Buffer.compare(encodeEnvelope(decodeEnvelope(again, from)), again) !== 0) {
            throw new Broken('a message that was accepted is another one when it is sent on');
          }
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
          refusals.push(error);
        }
      }
      if (refusals.length === PEERS.length) throw refusals[0]!;
    },
  };
}
