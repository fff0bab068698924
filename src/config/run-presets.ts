/**
 * Presets of a whole run: how numbers travel from end to end, in one word. A preset is a piece of
 * configuration that lies beneath what the file says, before anything is checked: fields that the file gives
 * win, and a list such as `method.param_groups` counts as one field. What each costs in bytes and memory is
 * in docs/methods.md. Pure.
 */
import { isMapping, type Mapping } from './overrides.ts';

/** The presets by name. */
export const RUN_PRESETS = ['exact', 'lean', 'balanced', 'wan', 'extreme', 'local'] as const;

export type RunPreset = (typeof RUN_PRESETS)[number];

const EMBEDDINGS = ['embed_tokens', 'lm_head'];
const LAYERS = ['attn', 'mlp'];
/** The learning rate of linear layers as a share of `optimizer.lr`, which embeddings and norms have whole. */
const LAYER_SCALE = 0.2;
const OPTIMIZER = { lr: 0.01, betas: [0.9, 0.999] };
/** What feedback sends is a sum of many gradients already: a long first moment makes it later still. */
const LATE_OPTIMIZER = { lr: 0.01, betas: [0.5, 0.999] };
/** A basis is good for 200 steps, and what V knows of the one before for less. */
const PROJECTED_OPTIMIZER = { lr: 0.01, betas: [0.9, 0.99] };

/** In the subspace a short first moment costs least (docs/results.md). */
const LEAN_OPTIMIZER = { lr: 0.01, betas: [0.5, 0.99] };

interface PowerOptions {
  /** Ranks of the linear layers, and of embedding and head. */
  readonly rank: string;
  readonly embeddings: string;
  readonly codec: string;
  readonly scale: number;
  readonly optimizer: Mapping;
}

/** Every matrix travels as power. */
function power({ rank, embeddings, codec, scale, optimizer }: PowerOptions): Mapping {
  return {
    method: {
      name: 'power',
      rank,
      scale,
      update_clip: 1,
      target_modules: [...LAYERS, ...EMBEDDINGS],
      param_groups: [{ match: EMBEDDINGS, rank: embeddings, scale: 1 }],
    },
    optimizer,
    wire: { codec },
  };
}

const PRESETS: Readonly<Record<RunPreset, Mapping>> = {
  exact: {
    method: { name: 'full', param_groups: [{ match: LAYERS, scale: LAYER_SCALE }] },
    optimizer: OPTIMIZER,
    wire: { codec: 'f32' },
  },
  lean: {
    method: { name: 'galore', rank: 'd/4', moments: 'transport' },
    optimizer: LEAN_OPTIMIZER,
    wire: { codec: 'int8' },
  },
  balanced: power({
    rank: 'd/8',
    embeddings: 'd/4',
    codec: 'int8',
    scale: LAYER_SCALE,
    optimizer: LATE_OPTIMIZER,
  }),
  wan: power({
    rank: 'd/13',
    embeddings: 'd/8',
    codec: 'int8',
    scale: LAYER_SCALE,
    optimizer: LATE_OPTIMIZER,
  }),
  extreme: power({ rank: 'd/32', embeddings: 'd/18', codec: 'int4', scale: 0.12, optimizer: LATE_OPTIMIZER }),
  // As lean, with an exchange every eighth optimizer step: a refresh after as many of them, 200.
  local: {
    method: { name: 'galore', rank: 'd/4', moments: 'transport', update_proj_gap: 25 },
    local_steps: { count: 8, outer: 'none' },
    optimizer: PROJECTED_OPTIMIZER,
    wire: { codec: 'int8' },
  },
};

/** What a preset says, as the mapping a file would have. */
export function runPreset(name: RunPreset): Mapping {
  return PRESETS[name];
}

/** Whether it is the name of a preset. */
export function isRunPreset(name: unknown): name is RunPreset {
  return RUN_PRESETS.some((known) => known === name);
}

/** `given` with its preset beneath it; unchanged without one, or with one that there is not. */
export function withRunPreset(given: Mapping): Mapping {
  const name = given['preset'];
  return isRunPreset(name) ? laidOver(PRESETS[name], given) : given;
}

/** `above` with the fields it does not have from `beneath`. */
function laidOver(beneath: Mapping, above: Mapping): Mapping {
  const merged: Mapping = { ...structuredClone(beneath), ...above };
  for (const [name, value] of Object.entries(beneath)) {
    const given = above[name];
    if (isMapping(value) && isMapping(given)) merged[name] = laidOver(value, given);
  }
  return merged;
}
