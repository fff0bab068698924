/** What `galore bench wan --json` measured, as far as a simulation of the same run needs it. Pure. */
import { z } from 'zod';
import { MODEL_SIZES } from '../../config/schema.ts';
import { RUN_PRESETS } from '../../config/run-presets.ts';
import { ConfigError } from '../../errors.ts';

const timeLine = z.object({
  ...{ download: z.number(), apply: z.number(), assign: z.number(), compute: z.number() },
  ...{ upload: z.number(), seal: z.number(), journal: z.number() },
});

const schema = z.object({
  model: z.enum(MODEL_SIZES),
  preset: z.enum(RUN_PRESETS),
  ...{ vocab: z.int().min(2), batch: z.int().min(1), seq: z.int().min(1), trainers: z.int().min(1) },
  ...{ upBitsPerSecond: z.number().positive(), downBitsPerSecond: z.number().positive() },
  ...{ secondsPerStep: z.number().positive(), unshapedSecondsPerStep: z.number().positive() },
  ...{ timeLine, unshapedTimeLine: timeLine },
  ...{ bytesUpPerStep: z.number(), bytesDownPerStep: z.number() },
});

export type Measured = z.output<typeof schema>;

/** @throws ConfigError if it is not the last line of `galore bench wan --json` */
export function parseMeasured(text: string, file: string): Measured {
  const last = text.trim().split('\n').at(-1) ?? '';
  const wanted = `${file} is not what galore bench wan --json prints`;
  let value: unknown;
  try {
    value = JSON.parse(last);
  } catch {
    throw new ConfigError(`${wanted}: its last line is no JSON`);
  }
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  throw new ConfigError(`${wanted}: ${issue?.path.join('.')}: ${issue?.message}`);
}

/** Of the token buckets that shape the links (wan/network.ts). */
const BURST_BYTES = 256_000;

/** What the trainers' machines do on fast links; the links and the rest are computed. */
export function settingsOf({ unshapedTimeLine: fast, batch, upBitsPerSecond, downBitsPerSecond }: Measured) {
  const rate = (bits: number): string => `${bits}bit`;
  return new Map<string, unknown>([
    ['trainers.kinds.up', rate(upBitsPerSecond)],
    ['trainers.kinds.down', rate(downBitsPerSecond)],
    ['trainers.kinds.burst_bytes', BURST_BYTES],
    ['trainers.kinds.latency_ms', 0],
    ['trainers.kinds.seconds_per_sequence', fast.compute / batch],
    ['trainers.kinds.apply_seconds', fast.apply + Math.max(0, fast.assign)],
    ['coordinator.up', '100gbit'],
    ['coordinator.down', '100gbit'],
    ['coordinator.journal_seconds', fast.journal],
  ]);
}
