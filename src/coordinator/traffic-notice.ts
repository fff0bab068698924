/** What a run should be told of its method before it starts. Pure. */
import type { RunConfig } from '../config/schema.ts';
import { hasBasis } from '../galore/slot.ts';
import { payloadSize } from '../protocol/slot-sizes.ts';
import type { RunShape } from '../run-shape.ts';
import type { TrafficPlan } from './traffic-plan.ts';

/**
 * Says how much travels where bases save memory but no traffic (Fira, APOLLO, LDAdam); null for methods
 * whose matrices travel projected, and for `full`, which promises nothing.
 */
export function trafficNotice(config: Pick<RunConfig, 'method'>, { slots, sizes }: RunShape): string | null {
  if (!slots.some((slot) => hasBasis(slot) && slot.policy === 'dense')) return null;
  const bytes = sizes.reduce((sum, slot) => sum + payloadSize(slot, 'contribution', 1).totalBytes, 0);
  return (
    `method ${config.method.name} needs whole gradients: every matrix travels dense, ` +
    `${inWords(bytes)} a trainer and step; made for a single trainer or a fast network`
  );
}

/** One line of the plan of a run. */
export function planNotice({ total, ratio, trainerMemory: memory }: TrafficPlan): string {
  const less = (times: number): string => `${times.toFixed(times < 10 ? 1 : 0)}x less than dense f32`;
  return (
    `a trainer sends ${inWords(total.up)} a step (${less(ratio.up)}), receives ${inWords(total.down)} ` +
    `(${less(ratio.down)}) and keeps ${inWords(memory.total)}; more: galore plan`
  );
}

function inWords(bytes: number): string {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
