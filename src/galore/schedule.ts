/** The learning rate over the run. The coordinator computes it; trainers take it from the record, but for their local steps. */

/** The fields of `optimizer` in the configuration that matter here. */
export interface ScheduleOptions {
  readonly lr: number;
  readonly schedule: {
    readonly type: 'constant' | 'linear' | 'cosine' | 'wsd';
    readonly warmup_steps: number;
    readonly min_lr_ratio: number;
    /** For wsd; undefined: a tenth of the run. */
    readonly decay_steps?: number | undefined;
  };
}

/** Warm restarts: after every so many steps the rate rises again to where the schedule is at the end of the rise. */
export interface Restarts {
  readonly every: number;
  readonly warmupSteps: number;
}

/** How long `wsd` decays where the file does not say it: a tenth of the run. */
export function defaultDecaySteps(totalSteps: number): number {
  return Math.max(1, Math.round(totalSteps / 10));
}

/**
 * The learning rate of the step with this index, from 0 (step s has index s - 1), of `totalSteps`. Local step h
 * (from 0) of H has index s - 1 + h / H.
 * Warm-up is lr * index / warmup_steps as in Hugging Face transformers and GaLore's script, so that the
 * full rate comes at index warmup_steps; only index 0, which would train nothing at rate 0, takes the
 * rate of index 1. After it `cosine` and `linear` go from lr to min_lr_ratio * lr, which they would
 * reach at index totalSteps, `constant` stays, and `wsd` (warm-up, stable, decay: Hu et al. 2024, arXiv
 * 2404.06395) stays until decay_steps before the end and then falls linearly. With restarts it rises anew after every
 * so many steps, linearly and from no more than the rate of its index 1 (ReLoRA's cosine_restarts).
 */
export function learningRate(
  options: ScheduleOptions,
  index: number,
  totalSteps: number,
  restarts?: Restarts,
): number {
  const since = restarts === undefined || index < restarts.every ? Infinity : index % restarts.every;
  const rise = restarts?.warmupSteps ?? 0;
  if (since < rise) {
    const risen = scheduled(options, index - since + rise, totalSteps);
    return (risen * Math.max(since, 1)) / rise;
  }
  return scheduled(options, index, totalSteps);
}

function scheduled(options: ScheduleOptions, index: number, totalSteps: number): number {
  const { type, warmup_steps: warmup, min_lr_ratio: floor } = options.schedule;
  if (index < warmup) return (options.lr * Math.max(index, 1)) / warmup;
  const progress = Math.min(1, (index - warmup) / Math.max(1, totalSteps - warmup));
  switch (type) {
    case 'constant':
      return options.lr;
    case 'wsd': {
      const decaySteps = options.schedule.decay_steps ?? defaultDecaySteps(totalSteps);
      const left = Math.min(1, Math.max(0, totalSteps - index) / decaySteps);
      return options.lr * (floor + (1 - floor) * left);
    }
    case 'linear':
      return options.lr * (floor + (1 - floor) * (1 - progress));
    case 'cosine':
      return options.lr * (floor + (1 - floor) * 0.5 * (1 + Math.cos(Math.PI * progress)));
  }
}
