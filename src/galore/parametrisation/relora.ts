/**
 * ReLoRA (Lialin et al. 2023, arXiv 2307.05695): LoRA whose adapters become part of the base every N steps and begin
 * anew, W0 <- W0 + s·B·A, A new, B = 0, so that the sum of the updates can have any rank. Most of the optimizer's state
 * becomes zero with it, and the learning rate warms up again (restarts.ts).
 */
import { kaimingUniform, lora, LORA_SAVED, loraFaults, type LoraOptions } from './lora.ts';
import type { Parametrisation, ParametrisationOptions } from './parametrisation.ts';

/** As in the paper what has no adapter is trained whole, unless the configuration says otherwise. */
export const RELORA_SAVED: readonly string[] = [
  ...LORA_SAVED,
  ...['embed', 'norm', 'lm_head', 'LayerNorm', 'pooler', 'bias'],
];

/** The fields that ReLoRA reads. */
export interface ReloraOptions extends LoraOptions {
  readonly method: LoraOptions['method'] &
    Pick<ParametrisationOptions['method'], 'merge_every' | 'prune_ratio'>;
}

export function relora(options: ReloraOptions): Parametrisation {
  const { merge_every: every, prune_ratio: prunedShare } = options.method;
  const times = (step: number): number => Math.floor(step / every);
  // What it has for peft would be wrong: after the first merge the base is another one.
  const { peft: _, ...adapters } = lora(options);
  return {
    ...adapters,
    faults: (tensors) => loraFaults(tensors, options.method, options.rank, [], RELORA_SAVED),
    renewal: {
      prunedShare,
      times,
      renew: (input) => {
        const [, a, b] = input.made.parts;
        const { tf } = input.engine;
        return [
          adapters.materialise(input),
          tf.tensor(kaimingUniform(a!, input.seed, times(input.step)), [...a!.shape]),
          tf.zeros([...b!.shape]),
        ];
      },
    },
  };
}
