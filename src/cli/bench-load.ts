/** The run of `galore bench coordinator`: a model whose whole gradient takes a given number of bytes. */
import { join } from 'node:path';
import { parseRunConfig } from '../config/load.ts';
import type { RunConfig } from '../config/schema.ts';
import { ConfigError } from '../errors.ts';
import { sizeOf } from '../galore/slot.ts';
import { llamaConfigFromFields, type ModelFields } from '../model/llama-config.ts';
import { contributionBytes, type SlotSizes } from '../protocol/slot-sizes.ts';
import { buildRunShape } from '../run-shape.ts';

/** The file of the text it is given, in the folder of the run. */
export const TEXT_NAME = 'text.txt';
/** Of one sequence: what a trainer is given has nothing to do with what it sends. */
export const TOKENS_PER_TRAINER = 8;

/** Layers of the model, as many as the size allows; those of 60m come first. */
const LAYERS = [8, 4, 2, 1];
const HEAD_DIM = 16;
/** Ids of the byte tokenizer. */
const VOCABULARY = 256;
/** How far the payload may be from what was asked for, as a share. */
const TOLERANCE = 0.02;

export interface BenchLoadOptions {
  readonly payloadBytes: number;
  readonly codec: RunConfig['wire']['codec'];
  /** Trainers to wait for before the first step. */
  readonly startTrainers: number;
}

export interface BenchLoad {
  readonly sizes: readonly SlotSizes[];
  readonly parameters: number;
  /** Of a contribution, exactly. */
  readonly payloadBytes: number;
  /** The run file, as JSON, of a run in `folder`. */
  readonly documentIn: (folder: string) => string;
}

/** @throws ConfigError if no model comes near the payload */
export function benchLoad(options: BenchLoadOptions): BenchLoad {
  const { payloadBytes, codec } = options;
  const document = (folder: string, model: ModelFields) =>
    JSON.stringify({
      name: 'bench',
      dir: join(folder, 'run'),
      model,
      data: { path: join(folder, TEXT_NAME), format: 'text', validation_fraction: 0 },
      tokenizer: { type: 'byte' },
      seq_len: TOKENS_PER_TRAINER,
      batch_size: options.startTrainers, // a sequence each
      method: { name: 'full' },
      optimizer: { name: 'sgd', momentum: 0 }, // no state: the checkpoint it starts from is small
      wire: { codec },
      coordinator: {
        ...{ host: '127.0.0.1', port: 0 },
        start_trainers: options.startTrainers,
        max_trainers: options.startTrainers + 1,
        // All come from this machine, at once.
        limits: {
          connections: options.startTrainers + 2,
          connections_per_address: options.startTrainers + 2,
          handshakes_per_second: options.startTrainers + 2,
        },
      },
      checkpoint: { every: 0 },
      evaluation: { every: 0 },
      steps: MAX_STEPS,
    });
  const config = parseRunConfig(document('/', { size: '9m' }), 'the options', {
    ...{ workingDir: '/', homeDir: '/' },
  });
  const shapeOf = (fields: ModelFields): readonly SlotSizes[] => {
    const defaults = { vocabSize: VOCABULARY, maxPositionEmbeddings: TOKENS_PER_TRAINER };
    return buildRunShape(config, llamaConfigFromFields(fields, defaults)).sizes;
  };
  const models = LAYERS.map((layers) => modelOf(layers, payloadBytes, codec, shapeOf));
  const fits = models.filter(({ deviation }) => deviation <= TOLERANCE);
  const chosen = fits[0];
  if (chosen === undefined) {
    const nearest = models.toSorted((a, b) => a.deviation - b.deviation)[0]!;
    throw new ConfigError(
      `--payload-bytes ${payloadBytes}: no model has a contribution of about that size in ${codec}; ` +
        `the nearest has ${nearest.bytes} bytes`,
    );
  }
  const sizes = shapeOf(chosen.fields);
  return {
    sizes,
    parameters: sizes.reduce((sum, { slot }) => sum + sizeOf(slot.shape), 0),
    payloadBytes: chosen.bytes,
    documentIn: (folder) => document(folder, chosen.fields),
  };
}

/** More than anyone will wait for. */
const MAX_STEPS = 1_000_000;

interface SizedModel {
  readonly fields: ModelFields;
  readonly bytes: number;
  /** From the payload that was asked for, as a share. */
  readonly deviation: number;
}

/** The model with so many layers, of the proportions of a Llama, whose contribution comes nearest. */
function modelOf(
  layers: number,
  payloadBytes: number,
  codec: BenchLoadOptions['codec'],
  shapeOf: (fields: ModelFields) => readonly SlotSizes[],
): SizedModel {
  const numbers = payloadBytes / BYTES_PER_NUMBER[codec];
  // 12 h² parameters a layer and two embeddings of 256 h: a root of 12 layers h² + 512 h = numbers.
  const width = (Math.sqrt(VOCABULARY ** 2 + 12 * layers * numbers) - VOCABULARY) / (12 * layers);
  const heads = Math.max(1, Math.round(width / HEAD_DIM));
  const sized = (intermediate: number): SizedModel => {
    const fields = {
      hidden_size: HEAD_DIM * heads,
      intermediate_size: Math.max(1, intermediate),
      num_hidden_layers: layers,
      num_attention_heads: heads,
    };
    const bytes = contributionBytes(shapeOf(fields));
    return { fields, bytes, deviation: Math.abs(bytes / payloadBytes - 1) };
  };
  // Width in the MLP does the rest: three matrices of it in every layer.
  const rowBytes = 3 * layers * HEAD_DIM * heads * BYTES_PER_NUMBER[codec];
  let intermediate = Math.round((8 / 3) * HEAD_DIM * heads);
  let best = sized(intermediate);
  for (let attempt = 0; attempt < 4; attempt++) {
    intermediate = Math.max(
      1,
      Math.round(intermediate + (payloadBytes - sized(intermediate).bytes) / rowBytes),
    );
    const next = sized(intermediate);
    if (next.deviation < best.deviation) best = next;
  }
  return best;
}

const BYTES_PER_NUMBER = { f32: 4, bf16: 2, int8: 1 + 4 / 256, int4: 0.5 + 2 / 64 } as const;
