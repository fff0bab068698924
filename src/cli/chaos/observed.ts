/** What the processes of a run under `galore chaos` tell in their logs. Pure. */

/** A line that matters here. */
export type LogLine =
  | { readonly type: 'listening'; readonly port: number }
  | { readonly type: 'leading'; readonly epoch: number }
  | { readonly type: 'standingBy' }
  | { readonly type: 'step'; readonly step: number; readonly loss: number }
  /** The coordinator's last words. */
  | { readonly type: 'completed'; readonly step: number; readonly weightsSha256: string }
  /** A trainer's. */
  | { readonly type: 'weights'; readonly step: number; readonly weightsSha256: string };

/** Null: any other line. */
export function readLogLine(text: string): LogLine | null {
  const line = parsed(text);
  const { step, loss, weightsSha256 } = line;
  switch (line['event']) {
    case 'run.notice': {
      const words = String(line['text']);
      if (words.startsWith('standing by: ')) return { type: 'standingBy' };
      const epoch = /^leading the run .*\(epoch (\d+)\)/.exec(words)?.[1];
      if (epoch !== undefined) return { type: 'leading', epoch: Number(epoch) };
      const port = /^listening on wss?:\/\/[^/]*:(\d+)\//.exec(words)?.[1];
      return port === undefined ? null : { type: 'listening', port: Number(port) };
    }
    case 'run.step':
      return { type: 'step', step: Number(step), loss: Number(loss) };
    case 'run.completed':
      return { type: 'completed', step: Number(step), weightsSha256: String(weightsSha256) };
    case 'trainer.weights':
      return { type: 'weights', step: Number(step), weightsSha256: String(weightsSha256) };
    default:
      return null;
  }
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  if (!text.startsWith('{')) return {};
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return {}; // the process was killed in the middle of the line
  }
}

/** A step that a coordinator has told of. */
export interface ToldStep {
  readonly step: number;
  readonly loss: number;
}

/** What was told is compared with what is on disk at the end. */
export interface StepAccount {
  /** Steps that were told, and are not in the end what they were, or not at all; and steps that nobody has done. */
  readonly lost: readonly number[];
  /** Steps that are there twice, or were told twice. */
  readonly duplicate: readonly number[];
}

/** @param lines of metrics.jsonl at the end */
export function accountSteps(
  told: readonly ToldStep[],
  lines: readonly ToldStep[],
  totalSteps: number,
): StepAccount {
  const kept = new Map(lines.map(({ step, loss }) => [step, loss]));
  const missing = Array.from({ length: totalSteps }, (_, i) => i + 1).filter((step) => !kept.has(step));
  const changed = told.filter(({ step, loss }) => kept.has(step) && kept.get(step) !== loss);
  return {
    lost: ascending([...missing, ...changed.map(({ step }) => step)]),
    duplicate: ascending([...repeated(lines), ...repeated(told)]),
  };
}

function repeated(steps: readonly ToldStep[]): readonly number[] {
  const seen = new Set<number>();
  return steps.flatMap(({ step }) => (seen.has(step) || !seen.add(step) ? [step] : []));
}

function ascending(steps: readonly number[]): readonly number[] {
  return [...new Set(steps)].sort((a, b) => a - b);
}
