export interface TapRun {
  passed: number;
  failed: number;
  /** Title and diagnostics of each failed test. */
  failures: string[];
  /** Titles of skipped and unfinished tests. */
  notes: string[];
  /** False if the run broke off before its end. */
  isComplete: boolean;
}

/** Feed `read` the lines of a TAP stream, then call `end`; `run` is the outcome. */
export function tapReader(): { run: TapRun; read: (line: string) => void; end: () => void };
