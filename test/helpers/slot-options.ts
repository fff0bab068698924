/** Options of a slot table as the simplest configurations make them. */
import type { SlotOptions } from '../../src/galore/slot.ts';

export function slotOptions(method: 'galore' | 'full', rank: number): SlotOptions {
  return {
    policy: method === 'full' ? null : 'one-sided',
    rank,
    projType: 'std',
    targetModules: ['attn', 'mlp'],
    rule: 'adamw',
    plainRule: 'adamw',
  };
}
