/** What the journal of a run proves about the use of its sequences. Only reads, takes no lock. */
import { CheckpointError } from '../../errors.ts';
import type { Cursor } from '../core/state.ts';
import { listCheckpointSteps, readRunFacts, type RunJson } from './checkpoint.ts';
import { CoverageFold, type Coverage } from './coverage.ts';
import type { CommitFacts } from './journal-format.ts';
import { scanSoundPart } from './journal-scan.ts';
import { readRunDirectory } from './run-directory.ts';
import type { StepSpan } from './membership.ts';

/** Everything `galore inspect --coverage` shows. */
export interface RunCoverage extends Coverage {
  readonly path: string;
  /** The steps whose records were looked at; null: there are none. */
  readonly steps: StepSpan | null;
  /** Of an epoch; null: the checkpoints, of an earlier version, do not say. */
  readonly epochSequences: number | null;
  /** Damage of the journal, and checkpoints whose cursor is not that of the journal, in words. */
  readonly faults: readonly string[];
}

/**
 * Looks at the Commits of the journal in the run directory `dir`, up to the first record that is damaged; with
 * `isFull` also at the checksums of everything between them.
 * @throws CheckpointError when `dir` is not a run directory
 */
export async function coverRun(
  dir: string,
  { isFull = false }: { readonly isFull?: boolean } = {},
): Promise<RunCoverage> {
  const { path, journalDir, checkpointsDir } = await readRunDirectory(dir);
  const fold = new RecordFold(await readCheckpointFacts(checkpointsDir));
  const { fault } = await scanSoundPart(journalDir, {
    isFull,
    onCommit: (commit) => fold.add(commit),
  });
  const faults = [...(fault === null ? [] : [fault.message]), ...fold.faults];
  return { path, ...fold.report(), faults };
}

/** Of those that are not damaged, ascending by step. */
async function readCheckpointFacts(checkpointsDir: string): Promise<readonly RunJson[]> {
  const facts: RunJson[] = [];
  for (const step of await listCheckpointSteps(checkpointsDir)) {
    try {
      facts.push(await readRunFacts(checkpointsDir, step));
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
    }
  }
  return facts;
}

/** The records of a journal, from where a cursor is known before them. */
class RecordFold {
  readonly faults: string[] = [];
  readonly #checkpoints: readonly RunJson[];
  #coverage: CoverageFold | null = null;
  #cursor: Cursor | null = null;
  #steps: StepSpan | null = null;

  constructor(checkpoints: readonly RunJson[]) {
    this.#checkpoints = checkpoints;
  }

  add({ sequence, step, update }: CommitFacts): void {
    // A checkpoint that ends right before the journal; else the first update tells where it leaves the order.
    this.#cursor ??= this.#cursorBefore(sequence);
    if (update !== null) {
      if (this.#cursor !== null) {
        this.#coverage ??= new CoverageFold(this.#cursor);
        this.#coverage.add(update);
        this.#steps = { from: this.#steps?.from ?? step, to: step };
      }
      this.#cursor = update.cursor;
    }
    this.#checkCursor(sequence);
  }

  report(): Omit<RunCoverage, 'path' | 'faults'> {
    const epochSequences =
      this.#checkpoints.findLast((facts) => facts.epochSequences)?.epochSequences ?? null;
    const coverage = this.#coverage ?? new CoverageFold(this.#cursor ?? { next: 0, returned: [] });
    return { steps: this.#steps, epochSequences, ...coverage.report(epochSequences) };
  }

  #cursorBefore(sequence: number): Cursor | null {
    if (sequence === 1) return { next: 0, returned: [] };
    return this.#checkpoints.find((facts) => facts.sequence === sequence - 1)?.cursor ?? null;
  }

  #checkCursor(sequence: number): void {
    const made = this.#checkpoints.find((facts) => facts.sequence === sequence);
    if (made === undefined || this.#cursor === null) return;
    const [stated, found] = [made.cursor, this.#cursor].map(({ next, returned }) =>
      JSON.stringify({ next, returned }),
    );
    if (stated === found) return;
    this.faults.push(`the checkpoint of step ${made.step} has the cursor ${stated}, the journal ${found}`);
  }
}
